// The lab in a real browser: node .ci/lab.mjs PROGRAM [directory for pictures]
// It needs Chromium and, in .ci/node_modules, playwright-core; .ci/run installs both.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chromium } from "playwright-core";

const [program, pictures] = process.argv.slice(2);
const server = spawn(program, ["-addr", "127.0.0.1:0", "-quiet"]);
const [banner] = await once(server.stdout, "data");
const base = /http:\/\/[^/]+\//.exec(banner)[0];

const browser = await chromium.launch({
	executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
	args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync"],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 1000 } });
const page = await context.newPage();
page.setDefaultTimeout(10_000);
const troubles = [];
page.on("pageerror", error => troubles.push("page error: " + error));
page.on("console", line => { if (line.type() === "error") troubles.push("console: " + line.text()); });
page.on("dialog", dialog => { troubles.push("a dialog: " + dialog.message()); dialog.dismiss(); });
page.on("request", request => { if (!request.url().startsWith(base)) troubles.push("asks elsewhere: " + request.url()); });

const text = selector => page.locator(selector).innerText();
const ready = () => page.waitForFunction(() => !document.querySelector("#run").disabled &&
	document.querySelector("#status").textContent !== "Running…");
const picture = async (name, options) => { if (pictures) await page.screenshot({ path: `${pictures}/${name}.png`, ...options }); };

// experiment opens a link to an experiment, which runs it.
async function experiment(fields) {
	await page.goto("about:blank");
	await page.goto(base + "lab#" + new URLSearchParams({ arrival: "at once", use: "", app: "hello", ...fields }));
	await ready();
}

// trace is what -trace prints on a terminal, with its colours, as a page.
async function trace() {
	const command = `${program} -addr 127.0.0.1:0 -trace -quiet -use upper`;
	const traced = spawn("script", ["-qec", command, "/dev/null"]);
	let out = "";
	traced.stdout.on("data", data => { out += data; });
	const printed = async what => { while (!what.test(out)) await once(traced.stdout, "data"); };
	await printed(/\(http.*\)/);
	const request = "GET /hello/a%20b?c=4 HTTP/1.0\\r\\nHost: localhost\\r\\nX_A: 1\\r\\n\\r\\n";
	spawn(program, ["send", /http:..([^/]+)/.exec(out)[1], request]);
	await printed(/connection is closed/);
	traced.kill();
	const colours = { 36: "#0ff", 32: "#6f6", 31: "#f77", 0: "#eee" };
	const escaped = out.replace(/[&<>]/g, c => `&#${c.charCodeAt(0)};`);
	return `<pre style="background:#111;color:#eee;padding:1rem;width:70rem;font:15px/1.4 monospace;white-space:pre-wrap">` +
		escaped.replace(/\x1b\[(\d+)m/g, (_, n) => `</span><span style="color:${colours[n]}">`) + "</pre>";
}

const tests = {
	async "a request is run, and stepped through both ways"() {
		await page.goto(base + "lab");
		await page.click("#run");
		await ready();
		assert.match(await text("#now"), /^Step 1 of \d+, .*: a connection from .* is accepted$/);
		assert.equal(await text("#out"), "none yet");
		await page.click("#next");
		assert.match(await text("#now"), /^Step 2 of .* bytes come/);
		await page.click("#last");
		assert.match(await text("#out"), /^HTTP\/1\.0 200 OK\\r\\n/);
		assert.match(await text("#environ"), /PATH_INFO\s+\/a b\n/);
		assert.match(await text("#now"), /the connection is closed$/);
		assert.ok(await page.isDisabled("#next"));
		await page.click("#back");
		assert.ok(await page.isEnabled("#next"));
		await page.click("#first");
		assert.equal(await text("#out"), "none yet");
	},
	async "the keyboard does all of it"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n" });
		await page.focus("#request");
		await page.keyboard.press("Control+Enter");
		await ready();
		await page.focus("#next");
		for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft"]) await page.keyboard.press(key);
		assert.match(await text("#now"), /^Step 2 /);
		await page.keyboard.press("End");
		assert.match(await text("#now"), /the connection is closed$/);
		await page.locator("#in [tabindex]").first().focus();
		assert.match(await page.locator(":focus").getAttribute("aria-label"), /^bytes 0 to 2: REQUEST_METHOD is "GET"$/);
		await page.keyboard.press("Enter");
		assert.match(await text("#now"), /REQUEST_METHOD/);
	},
	async "bytes light up what they became, and the reverse"() {
		await experiment({ request: "GET /a%20b?c=4 HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n", app: "environ", step: 999 });
		await page.hover("#in >> text=/a%20b");
		assert.match(await page.locator("#environ .hot").innerText(), /^PATH_INFO\s+\/a b$/);
		await page.hover("#environ tr:has-text('HTTP_HOST')");
		assert.equal(await page.locator("#in .hot").innerText(), "Host: localhost");
		assert.equal(await page.locator("#events .hot").count(), 1);
		await page.hover("#events li:has-text('QUERY_STRING')");
		assert.equal(await page.locator("#in .hot").innerText(), "c=4");
	},
	async "a refused request shows the byte, the rule and the section"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\nHost : a\\r\\n\\r\\n", step: 999 });
		assert.equal(await page.locator("#in .bad").innerText(), " ");
		const refused = await page.locator("#events li:has-text('400 Bad Request: expected')").first().innerText();
		assert.match(refused, /without a space before the colon.* — RFC 9112 §5\.1, byte 20$/);
		assert.match(await text("#out"), /^HTTP\/1\.0 400 Bad Request/);
	},
	async "missing bytes have a place"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\nHost: abcdefgh", arrival: "all, then the client ends its half", step: 999 });
		assert.equal(await page.locator("#in .bad").innerText(), "▲ here");
	},
	async "time passes only on its clock"() {
		const begin = Date.now();
		await experiment({ request: "GET / HTTP/1.0\\r\\nA: b\\r\\n\\r\\n", arrival: "the first half, then silence", step: 999 });
		assert.ok(Date.now() - begin < 8000);
		assert.match(await text("#events"), /10\.0 s {2}408 Request Timeout/);
	},
	async "a link holds the experiment"() {
		await page.goto(base + "lab");
		await page.selectOption("#example", "two layers of middleware");
		await ready();
		await page.click("#last");
		await page.click("#link");
		await page.waitForFunction(() => /link/.test(document.querySelector("#status").textContent));
		const link = page.url(), last = await text("#now");
		await page.goto("about:blank");
		await page.goto(link);
		await ready();
		assert.equal(await page.inputValue("#use"), "onion,upper");
		assert.equal((await text("#now")).replace(/after .*?:/, ""), last.replace(/after .*?:/, ""));
		assert.match(await text("#out"), /HELLO, WORLD!/);
	},
	async "what is wrong is said"() {
		await experiment({ request: "GET / HTTP/1.0\\q" });
		assert.match(await text("#status"), /expected escapes like/);
		await experiment({ request: "", use: "nothing" });
		assert.match(await text("#status"), /no middleware is called "nothing"; there are/);
		await experiment({ request: "x", app: "cgi" });
		assert.match(await text("#status"), /This link asks for something that is not here: cgi/);
		assert.ok(troubles.every(line => line.includes("400"))); // the browser tells of statuses, too
		troubles.length = 0;
	},
	async "<script> is text in every field"() {
		const script = "<script>alert(1)</script><img src=x onerror=alert(2)>";
		for (const request of [script, `${script} / HTTP/1.0\\r\\n\\r\\n`, `GET /${script} HTTP/1.0\\r\\n\\r\\n`,
			`GET / HTTP/1.0\\r\\n${script}: x\\r\\n\\r\\n`, `GET / HTTP/1.0\\r\\nX: ${script}\\r\\nX_: ${script}\\r\\n\\r\\n`,
			`GET /?q=${script}#${script} HTTP/1.0\\r\\n\\r\\n`, `POST / HTTP/1.0\\r\\nContent-Length: ${script.length}\\r\\n\\r\\n${script}`]) {
			for (const app of ["environ", "echo", "errors"]) {
				await experiment({ request, app, use: "log,upper", step: 999 });
				assert.ok(await page.isVisible("#result"), request);
			}
		}
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n", use: script });
		assert.match(await text("#status"), /no middleware is called/);
		assert.equal(await page.locator("img").count(), 0);
		troubles.splice(0, troubles.length, ...troubles.filter(line => !line.includes("400")));
	},
	async "every example runs"() {
		await page.goto(base + "lab");
		const names = await page.locator("#example option").allInnerTexts();
		assert.equal(names.shift(), "Choose one");
		assert.ok(names.length > 20);
		for (const name of names) {
			await page.selectOption("#example", name);
			await ready();
			await page.click("#last");
			assert.equal(await text("#status"), "", name);
			const refused = await page.locator("#in .bad").count() > 0;
			assert.equal(refused, name.startsWith("refused") && !name.includes("leaves") || name === "too slow", name);
		}
	},
	async "it fits a phone, and the dark"() {
		await page.setViewportSize({ width: 360, height: 740 });
		await page.emulateMedia({ colorScheme: "dark" });
		await experiment({ request: "GET /" + "x".repeat(300) + " HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n", app: "environ", step: 999 });
		assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it scrolls sideways");
		await picture("lab-phone", { fullPage: true });
		await page.emulateMedia({ colorScheme: "light" });
		await page.setViewportSize({ width: 1280, height: 1000 });
	},
	async "pictures for README"() {
		if (!pictures) return;
		await page.setViewportSize({ width: 1200, height: 1080 });
		await experiment({ request: "GET /a%20b?c=4 HTTP/1.0\\r\\nHost: localhost\\r\\nX_A: 1\\r\\n\\r\\n", app: "hello", use: "upper", step: 13 });
		await page.hover("#in >> text=/a%20b");
		await picture("lab", {});
		await page.setContent(await trace());
		await page.locator("pre").screenshot({ path: `${pictures}/trace.png` });
	},
	async "a server that has gone is said to have"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n" });
		server.kill("SIGTERM");
		await once(server, "exit");
		await page.click("#run");
		await page.waitForFunction(() => /does not answer/.test(document.querySelector("#status").textContent));
		assert.ok(await page.isHidden("#result"));
		troubles.length = 0; // the browser tells of the refused connection
	},
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
	try {
		await test();
		assert.deepEqual(troubles, []);
		console.log("ok    " + name);
	} catch (error) {
		failed++;
		troubles.length = 0;
		console.log("FAIL  " + name + "\n" + error.stack);
	}
}
await browser.close();
server.kill("SIGKILL"); // it has ended, if all went well
process.exit(failed ? 1 : 0);
