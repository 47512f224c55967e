// Records what the program answers to the experiments of the lab's menu, so that a static site
// shows them before its program has been loaded:
// node .ci/record.mjs PROGRAM lab.html recorded.json [experiments.json, those of the chapters]
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { runInNewContext } from "node:vm";

const [program, page, recorded, more] = process.argv.slice(2);
const html = readFileSync(page, "utf8");
const part = (from, to) => html.slice(html.indexOf(from), html.indexOf(to));
const code = part("// ---- Experiments", "const spread =") + "\n[...examples.filter(e => e[1]).map(([, , request, more]) => " +
	"JSON.stringify({...usual, ...more, request: escaped(request)}))]";
const all = {};
for (const body of [...runInNewContext(code, { TextEncoder }), ...more ? JSON.parse(readFileSync(more, "utf8")) : []]) {
	const run = spawnSync(program, ["-app", "lab"], { input: body, encoding: "utf8", maxBuffer: 1 << 26, env: {
		GATEWAY_INTERFACE: "CGI/1.1", REQUEST_METHOD: "POST", PATH_INFO: "/run", SERVER_NAME: "localhost", SERVER_PORT: "80",
		SERVER_PROTOCOL: "HTTP/1.0", REMOTE_ADDR: "127.0.0.1", CONTENT_TYPE: "application/json", CONTENT_LENGTH: String(Buffer.byteLength(body)),
	} });
	const [head, text] = run.stdout.split(/\r\n\r\n(.*)/s);
	if (!head.startsWith("Status: 200")) throw new Error(`${body}: ${run.stdout}${run.stderr}`);
	all[body] = text;
}
writeFileSync(recorded, JSON.stringify(all));
