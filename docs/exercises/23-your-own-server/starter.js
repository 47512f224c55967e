// Exercise 23: your own server. See docs/exercises/23-your-own-server/README.md.
//
//     node mine/23-your-own-server.js 8000
const net = require("node:net");

// serve answers one request.
function serve(connection) {
  let head = "";
  connection.setTimeout(2000, () => connection.destroy());
  connection.on("error", () => {}); // one client has left
  connection.on("data", (piece) => {
    head += piece.toString("latin1");
    if (head.includes("\r\n\r\n")) {
      const page = "Hello, World!\n";
      connection.end("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + page);
    }
  });
}

net.createServer(serve).listen(Number(process.argv[2]), "127.0.0.1");
