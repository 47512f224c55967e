// The program under WASI, where it answers a CGI request and cannot listen: node .ci/wasi.mjs rawsgi.wasm
import assert from "node:assert/strict";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WASI } from "node:wasi";

const module = await WebAssembly.compile(await readFile(process.argv[2]));
const cgi = {
	GATEWAY_INTERFACE: "CGI/1.1", SERVER_PROTOCOL: "HTTP/1.0",
	SERVER_NAME: "localhost", SERVER_PORT: "80",
	REQUEST_METHOD: "GET", SCRIPT_NAME: "", PATH_INFO: "/hello",
};

async function run(env, ...args) {
	const directory = await mkdtemp(join(tmpdir(), "rawsgi-"));
	const names = ["stdin", "stdout", "stderr"]; // stdin is empty: a GET has no body
	const files = await Promise.all(names.map(name => open(join(directory, name), "w+")));
	const [stdin, stdout, stderr] = files.map(file => file.fd);
	const wasi = new WASI({
		version: "preview1", args: ["rawsgi", ...args], env, stdin, stdout, stderr, returnOnExit: true,
	});
	const status = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
	const [, answer, log] = await Promise.all(
		names.map(name => readFile(join(directory, name), "utf8")));
	await Promise.all(files.map(file => file.close()));
	await rm(directory, { recursive: true });
	return { status, answer, log };
}

assert.deepEqual(await run(cgi), { status: 0, log: "", answer: "Status: 200 OK\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 14\r\n\r\nHello, World!\n" });
for (const mode of ["concurrent", "prefork"]) {
	const { status, answer, log } = await run({}, "-addr", "127.0.0.1:0", "-mode", mode);
	assert.deepEqual([status, answer, log.includes("start it with -cgi")], [1, "", true], log);
}
console.log("under WASI: GET /hello is 200, and -addr is refused");
