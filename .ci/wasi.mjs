// One CGI request to the program under WASI: node .ci/wasi.mjs rawsgi.wasm
import assert from "node:assert/strict";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WASI } from "node:wasi";

const directory = await mkdtemp(join(tmpdir(), "rawsgi-"));
const stdin = await open(join(directory, "stdin"), "w+"); // empty: a GET has no body
const stdout = await open(join(directory, "stdout"), "w+");
const wasi = new WASI({
	version: "preview1",
	args: ["rawsgi"],
	env: {
		GATEWAY_INTERFACE: "CGI/1.1", SERVER_PROTOCOL: "HTTP/1.0",
		SERVER_NAME: "localhost", SERVER_PORT: "80",
		REQUEST_METHOD: "GET", SCRIPT_NAME: "", PATH_INFO: "/hello",
	},
	stdin: stdin.fd,
	stdout: stdout.fd,
	returnOnExit: true,
});
const module = await WebAssembly.compile(await readFile(process.argv[2]));
const status = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
const answer = await readFile(join(directory, "stdout"), "utf8");
await Promise.all([stdin.close(), stdout.close()]);
await rm(directory, { recursive: true });

assert.equal(status, 0, "the exit status");
assert.equal(answer, "Status: 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Content-Length: 14\r\n\r\nHello, World!\n");
console.log("GET /hello under WASI: 200");
