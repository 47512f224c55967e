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

// tabStops lists what Tab stops at in the result, by its id or the id of its box.
async function tabStops() {
	await page.focus("#first");
	const stops = [];
	for (;;) {
		const stop = await page.evaluate(() => {
			const e = document.activeElement;
			return e.closest("#result") && (e.closest("#in, #events, #environ") || e).id;
		});
		if (!stop || stops.length > 99) return stops;
		stops.push(stop);
		await page.keyboard.press("Tab");
	}
}

// press presses keys, one after the other, and returns what then has the focus.
async function press(...keys) {
	for (const key of keys) await page.keyboard.press(key);
	return page.locator(":focus");
}

// faint lists the texts whose contrast to their background is less than 4.5 to 1.
const faint = () => page.evaluate(() => {
	const channels = colour => colour.match(/[\d.]+/g).map(Number);
	const light = colour => {
		const [r, g, b] = channels(colour).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const paper = getComputedStyle(document.querySelector(".steps")).backgroundColor;
	const style = (e, what) => getComputedStyle(e)[what];
	const under = e => !e ? paper : channels(style(e, "backgroundColor"))[3] === 0 ? under(e.parentElement) : style(e, "backgroundColor");
	const opacity = e => e ? style(e, "opacity") * opacity(e.parentElement) : 1;
	return [...document.querySelectorAll("p, label, #result span, #result li button, #result td")].filter(e => {
		const [a, b] = [light(style(e, "color")), light(under(e))].sort((a, b) => b - a);
		return (a + 0.05) / (b + 0.05) < 4.5 || opacity(e) < 1;
	}).map(e => e.outerHTML);
});

const scrolled = () => page.evaluate(() => scrollY);
const box = selector => page.locator(selector).boundingBox();

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
		assert.equal(await (await press("ArrowRight")).getAttribute("aria-label"), 'byte 4: PATH_INFO is "/"');
		await press("ArrowLeft", "Enter");
		assert.match(await text("#now"), /REQUEST_METHOD/);
	},
	async "the focus is never lost"() {
		await experiment({ request: "GET /a HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n", step: 999 });
		await page.locator("#in [aria-label*=PATH_INFO]").focus();
		assert.match(await (await press("Enter")).getAttribute("aria-label"), /PATH_INFO/);
		assert.match(await text("#now"), /PATH_INFO/);
		assert.match(await (await press("ArrowLeft")).getAttribute("aria-label"), /REQUEST_METHOD/);
		await page.click("#last");
		await page.locator("#environ button >> text=HTTP_HOST").focus();
		assert.equal(await (await press("Enter")).innerText(), "HTTP_HOST");
		assert.match(await text("#now"), /HTTP_HOST/);
		await page.click("#last");
		await page.locator("#environ button >> text=SERVER_NAME").focus();
		assert.equal(await (await press("Enter")).innerText(), "SERVER_NAME");
		assert.match(await text("#now"), /environ is complete/);
		await page.locator("#events button >> text=PATH_INFO").focus();
		assert.match(await (await press("Enter")).innerText(), /PATH_INFO/);
		await page.locator("#in [tabindex='0']").focus();
		await page.evaluate("go(1)");
		assert.equal(await page.locator(":focus").getAttribute("id"), "step"); // there are no such bytes yet
		await page.focus("#back");
		await press("End");
		assert.equal(await (await press("Home")).getAttribute("id"), "back");
		await page.evaluate("new Promise(requestAnimationFrame)"); // a disabled button loses the focus later
		assert.equal(await (await press("ArrowRight")).getAttribute("id"), "back");
		assert.equal(await (await press("Enter", "Enter")).getAttribute("id"), "back");
		assert.match(await text("#now"), /^Step 1 /);
		await page.focus("#run");
		await page.route("**/run", async route => { await page.waitForTimeout(100); await route.continue(); });
		await press("Enter");
		await ready();
		await page.unroute("**/run");
		assert.equal(await page.locator(":focus").getAttribute("id"), "run");
	},
	async "Space does what Enter does"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n" });
		await page.click("#last");
		await page.focus("#in [role=button] >> nth=0");
		const before = await scrolled();
		await press("Space");
		await page.waitForTimeout(300); // scrolling takes time
		assert.equal(await scrolled(), before);
		assert.match(await text("#now"), /REQUEST_METHOD/);
		await page.click("#last");
		await page.focus("#environ button >> text=PATH_INFO");
		await press("Space");
		assert.match(await text("#now"), /PATH_INFO/);
	},
	async "each box is one stop of Tab, with a name and a role"() {
		await experiment({ request: "GET /a?b HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n", step: 999 });
		assert.deepEqual(await tabStops(), ["first", "back", "step", "next", "last", "in", "events", "environ"]);
		assert.equal(await page.locator("#result [tabindex]:not(button, [role=button][aria-label])").count(), 0);
		const named = item => item.evaluate(e => e.ariaLabel || e.innerText);
		for (const [id, names] of Object.entries({ in: /METHOD.*PATH.*QUERY/s, events: /\d ms.*\d ms.*\d ms/s, environ: /\w+ \w+ \w+/ })) {
			await page.locator(`#${id} [tabindex='0']`).focus();
			const seen = [];
			for (const key of ["Home", "ArrowRight", "ArrowDown"]) seen.push(await named(await press(key)));
			assert.match(seen.join(" "), names);
			assert.equal(new Set(seen).size, 3);
			await press("ArrowLeft", "ArrowUp");
			assert.equal(await named(page.locator(":focus")), seen[0]);
			await press("ArrowRight", "Tab", "Shift+Tab"); // where one has been stays the stop
			assert.equal(await named(page.locator(":focus")), seen[1]);
		}
		assert.match(await text("#keys"), /arrow keys/);
	},
	async "one read is not one request"() {
		await experiment({ request: "POST /a HTTP/1.0\\r\\nContent-Length: 3\\r\\n\\r\\nxyz", app: "echo", arrival: "byte by byte", step: 7 });
		assert.deepEqual(await page.locator("#in .now").allInnerTexts(), ["/"]); // after accept, P, O, S, T and the space
		assert.match((await page.locator("#in .future").allInnerTexts()).join(""), /^a HTTP.*xyz$/s);
		const soft = await page.locator("#in .future").first().evaluate(e => getComputedStyle(e).color);
		assert.notEqual(soft, await page.locator("#in .now").evaluate(e => getComputedStyle(e).color));
		await page.locator("#events li:has-text('comes: 40')").click();
		assert.deepEqual(await page.locator("#in .now").allInnerTexts(), ["y"]); // of a body that is known
		assert.deepEqual(await page.locator("#in .future").allInnerTexts(), ["z"]);
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n", step: 2 });
		assert.equal((await page.locator("#in .now").allTextContents()).join(""), "GET / HTTP/1.0\\r\\n\n\\r\\n\n");
		assert.equal(await page.locator("#in .future").count(), 0);
	},
	async "wrong steps look wrong, and everything can be read"() {
		for (const colorScheme of ["light", "dark"]) {
			await page.emulateMedia({ colorScheme });
			for (const step of [1, 4, 8, 999]) {
				await experiment({ request: "GET /after HTTP/1.0\\r\\nHost: a\\r\\nX_A: b\\r\\n\\r\\n", app: "errors", step });
				assert.deepEqual(await faint(), [], colorScheme);
				await page.hover("#events .wrong >> nth=0");
				assert.deepEqual(await faint(), [], colorScheme);
			}
			await page.mouse.move(0, 0);
			assert.equal(await page.locator("#events .wrong").count(), 2); // a panic and a line of the log
			for (const property of ["borderLeftColor", "backgroundColor"]) {
				const [usual, panic, log] = await page.locator("#events li:first-child, #events .wrong")
					.evaluateAll((list, property) => list.map(e => getComputedStyle(e)[property]), property);
				assert.ok(panic !== usual && log !== usual, property);
			}
			assert.ok(await page.locator("#events .wrong").last().evaluate(e => parseFloat(getComputedStyle(e).borderLeftWidth) > 2));
			await experiment({ request: "GET / HTTP/1.0\\r\\nHost : a\\r\\n\\r\\n", step: 999 });
			assert.deepEqual(await faint(), [], colorScheme);
		}
		await page.emulateMedia({ colorScheme: "light" });
	},
	async "nothing touches, and nothing is unused"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n", step: 999 });
		assert.ok(await page.locator("#environ td").first().evaluate(e => parseFloat(getComputedStyle(e).paddingLeft) >= 4));
		const example = await box("#example"), label = await box("label[for=request]");
		assert.ok(label.y - example.y - example.height >= 8);
		const script = (await page.locator("script").textContent()).replace(/\/\/ .*/g, ""); // without comments
		for (const [, name] of script.matchAll(/^(?:const|let|(?:async )?function) ([\w$]+)/gm)) {
			assert.ok(script.match(/[\w$]+/g).filter(word => word === name).length > 1, name + " is unused");
		}
	},
	async "the names of middleware are shown, and the usual arrival first"() {
		await page.goto(base + "lab");
		const names = await page.locator("#layers option").allTextContents();
		assert.ok(names.length > 3);
		assert.ok((await text("#names")).endsWith(": " + names.join(", ")));
		assert.equal(await page.locator("#arrival option").first().innerText(), "at once");
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
		await page.goto("about:blank");
		await page.goto(base + "lab#request=GET / HTTP/1.0\\r\\n\\r\\n");
		await ready();
		assert.equal(await text("#status"), "");
		assert.equal(await page.inputValue("#app") + ", " + await page.inputValue("#arrival"), "environ, at once");
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
			assert.equal(refused, name.startsWith("refused") || name === "too slow", name);
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
	async "Run shows its result, on a phone as well"() {
		for (const [width, height, jumps] of [[390, 844, true], [1280, 1000, false]]) {
			await page.setViewportSize({ width, height });
			await page.goto("about:blank");
			await page.goto(base + "lab");
			await page.click("#run");
			await ready();
			await page.waitForTimeout(100);
			assert.equal(await scrolled() > 0, jumps);
			const { y } = await box("#in");
			assert.ok(y >= 0 && y < (jumps ? height / 2 : height), `the bytes are at ${y}`);
			await page.click("#last");
			const [out, events, environ] = [await box("#out"), await box("#events"), await box("#environ")];
			if (width === 390) assert.ok(out.y < events.y && events.y < environ.y);
			else assert.ok(events.x > out.x + out.width && environ.x < events.x && environ.y - out.y - out.height < 100);
		}
	},
	async "pictures for README"() {
		if (!pictures) return;
		await page.setViewportSize({ width: 1200, height: 1160 });
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
