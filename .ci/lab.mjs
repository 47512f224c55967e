// The lab in a real browser: node .ci/lab.mjs PROGRAM SITE [directory for pictures]
// The page is tried twice: from the program, and from SITE, which .ci/site has made and where the
// page runs the program itself; in Chromium and in Firefox, or in that of BROWSER=Firefox alone.
// In .ci/node_modules it needs playwright-core; .ci/run installs all of them.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, readdir } from "node:fs/promises";
import { createServer } from "node:http";
import { connect } from "node:net";
import { extname, join } from "node:path";
import { chromium, firefox } from "playwright-core";

const [program, site, pictures] = process.argv.slice(2);
const server = spawn(program, ["-addr", "127.0.0.1:0", "-quiet"]);
const [banner] = await once(server.stdout, "data");
const served = /http:\/\/[^/]+\//.exec(banner)[0];

// A static server: it has files and makes nothing.
const types = { ".html": "text/html; charset=utf-8", ".wasm": "application/wasm", ".png": "image/png" };
const files = createServer(async (request, response) => {
	try {
		const content = await readFile(join(site, new URL(request.url, "http://x").pathname));
		response.writeHead(200, { "Content-Type": types[extname(request.url)] || "text/plain; charset=utf-8", "Content-Length": content.length }).end(content);
	} catch {
		response.writeHead(404).end();
	}
});
await once(files.listen(0, "127.0.0.1"), "listening");
const pages = { "the server": served + "lab", "the site": `http://127.0.0.1:${files.address().port}/lab/index.html` };

const browsers = {
	Chromium: () => chromium.launch({
		executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
		args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
			"--disable-component-update", "--disable-sync"],
	}),
	Firefox: () => firefox.launch({ channel: "moz-firefox", executablePath: process.env.FIREFOX || "/usr/bin/firefox-esr" }),
};
for (const name of Object.keys(browsers)) if (process.env.BROWSER && name !== process.env.BROWSER) delete browsers[name];
const troubles = [];
let browser, context, page;

// open starts a browser with a page, on which faults and requests to elsewhere are noted.
async function open(name) {
	browser = await browsers[name]();
	context = await browser.newContext({ viewport: { width: 1280, height: 720 } });
	if (name === "Chromium") await context.grantPermissions(["clipboard-read", "clipboard-write"]);
	page = await context.newPage();
	page.setDefaultTimeout(10_000);
	page.on("pageerror", error => troubles.push("page error: " + error));
	page.on("console", line => { if (line.type() === "error") troubles.push("console: " + line.text()); });
	page.on("dialog", dialog => { troubles.push("a dialog: " + dialog.message()); dialog.dismiss(); });
	page.on("request", request => {
		if (!/^(data|about):/.test(request.url()) && !Object.values(pages).some(url => new URL(url).origin === new URL(request.url()).origin)) troubles.push("asks elsewhere: " + request.url());
	});
}

let url = pages["the server"];
const text = selector => page.locator(selector).innerText();
const ready = () => page.waitForFunction(() => document.querySelector("#run").getAttribute("aria-busy") === "false");
const picture = async name => { if (pictures) await page.screenshot({ path: `${pictures}/${name}.png` }); };

// fresh opens the page anew.
async function fresh(hash = "") {
	await page.goto("about:blank");
	await page.goto(url + hash);
	await ready();
}

// experiment opens a link to one, which runs it.
const experiment = fields => fresh("#" + new URLSearchParams({ arrival: "at once", app: "hello", ...fields }));

// preset chooses an experiment from the menu.
async function preset(name) {
	await page.selectOption("#example", name);
	await page.waitForFunction(name => document.querySelector("#run").getAttribute("aria-busy") === "false" && !stepped && asked && $("example").value === name, name);
}

// press presses keys, one after the other, and returns what then has the focus.
async function press(...keys) {
	for (const key of keys) await page.keyboard.press(key);
	return page.locator(":focus");
}

// step goes to the nth step whose sentence matches.
async function step(sentence, nth = 0) {
	const number = await page.evaluate(([source, nth]) => steps.map((s, i) => [s.text, i]).filter(([t]) => new RegExp(source).test(t))[nth]?.[1], [sentence.source, nth]);
	assert.notEqual(number, undefined, `no step ${nth} is like ${sentence}`);
	await page.evaluate(n => go(n + 1), number);
	return number;
}

// visible reports whether all of an element can be seen without scrolling.
const visible = selector => page.locator(selector).first().evaluate(e => {
	const a = e.getBoundingClientRect(), b = e.closest(".scroll, .editor, #out")?.getBoundingClientRect() || { top: 0, bottom: innerHeight };
	return a.height > 0 && a.top >= b.top - 1 && a.bottom <= Math.min(b.bottom, innerHeight) + 1;
});

// faint lists the texts whose contrast to their paper is less than 4.5 to 1. What has not
// happened is pale, and may be left out.
const faint = (future = false) => page.evaluate(future => {
	const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
	const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
	const light = ([r, g, b]) => {
		[r, g, b] = [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const under = e => { const c = rgba(getComputedStyle(e).backgroundColor); return c[3] > 200 || !e.parentElement ? c : under(e.parentElement); };
	return [...document.querySelectorAll("p, label, h2, .title span, h3, td, #out b, #marks span, .layer div, .head div, footer span, a, button")].filter(e => {
		if (!e.innerText || e.closest((future ? "" : ".future, ") + "[aria-disabled=true], dialog") || !e.checkVisibility()) return false;
		const [a, b] = [light(rgba(getComputedStyle(e).color)), light(under(e))].sort((a, b) => b - a);
		return (a + 0.05) / (b + 0.05) < 4.5;
	}).map(e => e.outerHTML.slice(0, 200));
}, future);

// trace is what -trace prints on a terminal, with its colours, as a page.
async function trace() {
	const command = `stty cols 100; COLUMNS=100 ${program} -addr 127.0.0.1:0 -trace -use upper`;
	const traced = spawn("script", ["-qec", command, "/dev/null"]);
	let out = "";
	traced.stdout.on("data", data => { out += data; });
	const printed = async what => { while (!what.test(out)) await once(traced.stdout, "data"); };
	await printed(/\(http.*\)/);
	const request = "GET /hello/a%20b?c=4 HTTP/1.0\\r\\nHost: localhost\\r\\nX_A: 1\\r\\n\\r\\n";
	spawn(program, ["send", /http:..([^/]+)/.exec(out)[1], request]);
	await printed(/closes the connection/);
	traced.kill();
	const colours = { 36: "#5fd7ff", 32: "#87d787", 33: "#ffd75f", 31: "#ff8787", 0: "#eee" };
	const escaped = out.replace(/[&<>]/g, c => `&#${c.charCodeAt(0)};`);
	return `<pre style="background:#14161b;color:#eee;margin:0;padding:1rem;width:max-content;font:15px/1.35 'DejaVu Sans Mono',monospace">` +
		escaped.replace(/\x1b\[(\d+)m/g, (_, n) => `</span><span style="color:${colours[n]}">`) + "</pre>";
}

// What a learner should be able to answer from the page alone, each within a minute: the
// experiment, and what must be seen of the answer.
const questions = {
	async "which bytes became PATH_INFO?"() {
		await preset("a path and a query");
		assert.equal(await text("#marks [data-n='2']"), "/a%20b");
		assert.match(await text("#environ tr:has-text('PATH_INFO')"), /^2\s*PATH_INFO\s+\/a b$/);
		assert.ok(await visible("#environ tr:has-text('PATH_INFO')") && await visible("#marks [data-n='2']"));
	},
	async "when did the head leave?"() {
		await preset("a head that waits");
		assert.match(await page.locator("#chart").textContent(), /head held back: 200 OK/);
		const block = await step(/calls write\(\)/), head = await step(/the head leaves/);
		assert.equal(head, block + 2); // the reason for having no Content-Length is between them
		assert.ok(await visible("svg .held") && await visible("#sentence"));
	},
	async "how many bytes had been sent when startResponse was called the first time?"() {
		await preset("a head that waits");
		await step(/the gateway stores/);
		assert.match(await text("#head"), /bytes sent\s*0: the head waits here/);
		assert.match(await text("#h-out"), /0 bytes sent so far/);
		assert.ok(await visible("#head"));
	},
	async "who was called first?"() {
		await preset("two layers of middleware");
		assert.deepEqual(await page.locator(".layer > b").allInnerTexts(), ["onion", "upper", "hello"]);
		assert.equal(await page.locator(".layer .layer .layer > b").innerText(), "hello");
		assert.ok(await step(/calls the middleware onion/) < await step(/calls the application hello/));
		assert.ok(await visible(".layer .layer .layer > b"));
	},
	async "why is there no Content-Length?"() {
		await preset("an unknown length");
		await page.click("#back");
		await page.click("#question button");
		assert.match(await text("#sentence"), /^the answer has no Content-Length: nobody knows how long the body will be/);
	},
	async "which byte is wrong, by which rule?"() {
		await preset("refused: a space before the colon");
		assert.equal(await page.locator("#marks .bad").textContent(), " ");
		assert.match(await text("#fault"), /400 Bad Request: .*byte 20, counted from 0, RFC 9112 §5\.1, chapter 4/);
		assert.deepEqual(await page.locator("#fault a").evaluateAll(list => list.map(a => a.getAttribute("href").replace(/.*\/|\.(md|html)$/g, ""))), ["rfc9112#section-5.1", "04-header-fields"]);
		assert.match(await text("#onion"), /^Not called/);
		assert.ok(await visible("#marks .bad") && await visible("#fault") && await visible("#onion .none"));
	},
	async "what was dropped, and why?"() {
		await preset("fields that are dropped");
		assert.deepEqual(await page.locator("#marks .dropped").allInnerTexts(), ["X_A: 1", "Proxy: http://evil"]);
		await page.evaluate(() => document.querySelector("#step").focus());
		await step(/X_A/);
		assert.match(await text("#sentence"), /X_A is dropped: with a - instead of _ it would have the same key/);
	},
	async "what happens after a panic?"() {
		await preset("a failure before the head");
		assert.match(await text("#out"), /^HTTP\/1\.0 500 Internal Server Error/);
		assert.match(await text("#head"), /log\s*the application failed: /);
		assert.equal(await page.locator("svg .burst").count(), 1);
		assert.ok(await step(/panics/) < await step(/the gateway logs/) && await step(/the gateway logs/) < await step(/the head leaves/));
		assert.ok(await visible(".layer .panic") && await visible("#head"));
	},
	async "when does the second block leave?"() {
		await preset("a generator");
		const [block, left, third] = [await step(/gives a block/, 1), await step(/of the body leave$/), await step(/gives a block/, 2)];
		assert.ok(left === block + 1 && left < third);
		assert.equal(await page.locator("svg .wirearrow").count(), 4); // the request, and three blocks
	},
	async "who closed?"() {
		await preset("a generator");
		await page.click("#last");
		assert.equal(await text("#sentence"), "the gateway closes the connection");
	},
};

// What holds whoever answers.
const anywhere = {
	async "it has run when it opens, on one screen"() {
		for (const [width, height] of [[1280, 720], [1366, 768], [1920, 1080]]) {
			await page.setViewportSize({ width, height });
			await fresh();
			assert.match(await text("#out"), /^HTTP\/1\.0 200 OK\\r\\n/);
			assert.match(await text("#sentence"), /^Which bytes become PATH_INFO/);
			assert.deepEqual(await page.evaluate(() => [document.documentElement.scrollHeight <= innerHeight, document.documentElement.scrollWidth <= innerWidth]), [true, true]);
			for (const part of ["#request", "#out", "#environ", "#head", "#onion", "#sentence", "#chart", "#step"]) assert.ok(await visible(part), part);
			assert.ok(await page.locator("#sentence").evaluate(e => parseFloat(getComputedStyle(e).fontSize) >= 22));
		}
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "the ten questions can be answered"() {
		await fresh();
		assert.equal(Object.keys(questions).length, 10);
		for (const [question, answer] of Object.entries(questions)) {
			try {
				await answer();
			} catch (error) {
				error.message = question + " " + error.message;
				throw error;
			}
		}
	},
	async "every experiment of the menu runs, and has a question until one steps"() {
		await fresh();
		const names = await page.locator("#example option").evaluateAll(list => list.map(o => o.value).filter(Boolean));
		assert.ok(names.length > 25);
		for (const name of names) {
			await preset(name);
			assert.equal(await text("#status"), "", name);
			assert.match(await text("#sentence"), /\?\s+Predict: click the step/, name);
			assert.equal(await page.locator("#marks .bad, #marks .gap").count() > 0, name.startsWith("refused") || name === "too slow", name);
			assert.equal(await page.evaluate(() => steps.every(s => s.text && placeOf(events[s.last]))), true);
			assert.ok(await page.locator("svg .star").count() > 0, "no step answers the question of " + name);
			await page.click("#back");
			assert.doesNotMatch(await text("#sentence"), /Predict/, name);
			assert.match(await text("#question"), /\? ★ step \d+(, \d+)*$/, name); // the question stays
			assert.equal(await page.evaluate(() => spread(escaped($("request").value))), await page.inputValue("#request"), name);
		}
	},
	async "<script> is text in every field"() {
		const script = "<script>alert(1)</script><img src=x onerror=alert(2)>";
		for (const request of [script, `${script} / HTTP/1.0\\r\\n\\r\\n`, `GET /${script} HTTP/1.0\\r\\n\\r\\n`,
			`GET / HTTP/1.0\\r\\n${script}: x\\r\\n\\r\\n`, `GET / HTTP/1.0\\r\\nX: ${script}\\r\\nX_: ${script}\\r\\n\\r\\n`,
			`GET /?q=${script}#${script} HTTP/1.0\\r\\n\\r\\n`, `POST / HTTP/1.0\\r\\nContent-Length: ${script.length}\\r\\n\\r\\n${script}`]) {
			for (const app of ["environ", "echo", "errors"]) {
				await experiment({ request, app, use: "log,upper" });
				assert.ok(await page.evaluate(() => steps.length > 3), request);
			}
		}
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n", use: script });
		assert.match(await text("#status"), /no middleware is called/);
		await experiment({ request: "x", app: script });
		assert.match(await text("#status"), /This asks for something that is not here: <script>/);
		assert.equal(await page.locator("img, #out script, #marks script").count(), 0);
		troubles.splice(0, troubles.length, ...troubles.filter(line => !line.includes("400"))); // the browser tells of statuses, too
	},
	async "a step leads to its code"() {
		await fresh();
		const places = new Set();
		for (const name of ["a path and a query", "two layers of middleware", "refused: a folded line", "a failure after the head", "POST, with a body"]) {
			await preset(name);
			for (const place of await page.evaluate(() => events.map(placeOf))) places.add(place);
		}
		assert.ok(places.size > 15);
		for (const place of places) {
			await page.evaluate(place => showCode(place), place);
			assert.match(await text("#code pre"), /^\/\/ line \d+\n[^]*(func|type) [^]*\}$/, place);
			await page.keyboard.press("Escape");
		}
		await step(/PATH_INFO|gives a block/);
		await page.click("#where a");
		assert.ok(await page.isVisible("#code"));
		await page.click("#code button");
		assert.ok(await page.isHidden("#code"));
	},
	async "the lab links of the documents open experiments"() {
		const root = new URL("..", import.meta.url).pathname;
		const names = [join(root, "README.md"), ...(await readdir(join(root, "docs"), { recursive: true })).filter(n => n.endsWith(".md")).map(n => join(root, "docs", n))];
		for (const name of names) {
			for (const [, hash] of (await readFile(name, "utf8")).matchAll(/\/lab(?:\.html)?(#[^)\s>"'`]+)/g)) {
				await fresh(hash);
				assert.equal(await text("#status"), "", name + ": " + hash);
				assert.ok(await page.evaluate(() => steps.length > 0), hash);
			}
		}
	},
};

const once_ = {
	async "it runs as one types, with line breaks as \\r\\n"() {
		await fresh();
		await page.fill("#request", "POST /x HTTP/1.0\nContent-Length: 2\nCookie: é\n\nhi");
		await page.waitForFunction(() => asked.request.startsWith("POST"));
		await ready();
		assert.equal(await page.evaluate(() => asked.request), "POST /x HTTP/1.0\\r\\nContent-Length: 2\\r\\nCookie: é\\r\\n\\r\\nhi");
		assert.match(await text("#environ"), /HTTP_COOKIE\s+é\n/);
		assert.equal(await page.locator("#marks .end").count(), 4);
		assert.equal(await page.inputValue("#example"), "");
		await page.fill("#request", "GET / HTTP/1.0\n\\q\n");
		await page.waitForFunction(() => /expected escapes like/.test(document.querySelector("#status").textContent));
		troubles.splice(0, troubles.length, ...troubles.filter(line => !line.includes("400")));
	},
	async "middleware is put on and taken off as chips, in the colours of the layers"() {
		await fresh();
		for (const name of ["onion", "upper"]) await page.selectOption("#add", name);
		await page.waitForFunction(() => asked.use === "onion,upper");
		assert.deepEqual(await page.locator(".layer > b").allInnerTexts(), ["onion", "upper", "hello"]);
		const colours = await page.evaluate(() => [...document.querySelectorAll(".chip")].map((chip, i) => [getComputedStyle(chip).borderLeftColor,
			getComputedStyle(document.querySelectorAll(".layer")[i]).borderLeftColor, getComputedStyle(document.querySelectorAll("#lanes span")[i + 2]).color]));
		assert.ok(colours.every(([chip, layer, lane]) => chip === layer && layer === lane) && new Set(colours.flat()).size === 2, colours.join(" "));
		await page.click(".chip:has-text('onion')");
		await page.waitForFunction(() => asked.use === "upper");
		assert.deepEqual(await page.locator(".layer > b").allInnerTexts(), ["upper", "hello"]);
		assert.equal(await page.inputValue("#example"), "");
	},
	async "what was predicted is compared with the answer"() {
		await fresh();
		await preset("a head that waits");
		assert.ok(await page.locator("svg .star").evaluateAll(list => list.every(e => !e.checkVisibility()))); // no hint
		const step = sentence => page.locator("svg .step").filter({ has: page.locator("title", { hasText: sentence }) }).first();
		const right = await page.evaluate(() => steps.findIndex(answered) + 1);
		await step(/the gateway stores/).click();
		assert.match(await text("#question"), new RegExp(`^When does the head leave\\? You predicted step \\d+\\. Compare: ★ step ${right}$`));
		assert.ok(await page.locator("#guess").evaluate(e => e.textContent === "?" && Number(e.getAttribute("x")) > 0));
		await page.click("#question button");
		assert.match(await text("#sentence"), /^the head leaves/);
		assert.ok(await page.locator("svg .star").first().isVisible());
		await preset("HEAD");
		await preset("a head that waits");
		await step(/the head leaves/).click();
		assert.match(await text("#question"), /As you predicted: ★ step \d+$/);
		await preset("HEAD");
		await page.click("#back"); // who steps has not predicted
		assert.match(await text("#question"), /leaves it out\? ★ step \d+$/);
		for (const width of [1280, 390]) {
			await page.setViewportSize({ width, height: 844 });
			for (const [name, bytes, said] of [["a path and a query", "#marks [data-n='2']", /As you predicted: ★ step 4$/], ["a path and a query", "#marks [data-n='1']", /You predicted step 3\./],
				["refused: a broken escape", "#marks .bad", /As you predicted/], ["a generator", "svg .phase >> nth=1", /You predicted step 3\./],
				...(width > 390 ? [["all of environ", "#environ tr:has-text('REMOTE_PORT')", /As you predicted/], ["a mounted application", "#environ tr:has-text('PATH_INFO')", /As you predicted/]] : [])]) {
				await fresh();
				await preset(name);
				await page.locator(bytes).first().scrollIntoViewIfNeeded();
				const box = await page.locator(bytes).first().boundingBox();
				await page.mouse.click(box.x + Math.min(4, box.width / 2), box.y + box.height / 2); // the text area is over the bytes
				await page.hover("h1");
				assert.match(await text("#question"), said, `${name} at ${width}`);
				assert.doesNotMatch(await text("#sentence"), /Predict/);
			}
		}
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "one byte is marked as wrong, and it says how it is numbered"() {
		await fresh();
		for (const [name, bad] of [["refused: a broken escape", ["%"]], ["refused: two spaces", [" "]], ["refused: the client leaves in the body", []]]) {
			await preset(name);
			await page.evaluate(() => go(steps.findIndex(answered) + 1));
			assert.deepEqual(await page.locator("#marks .range.current").allTextContents(), bad, name);
			assert.match(await text("#fault"), /byte \d+, counted from 0/);
		}
	},
	async "the step with the answer has the status"() {
		await fresh();
		await preset("a failure before the head");
		await page.click("#back");
		await page.click("#question button");
		assert.match(await text("#sentence"), /^the head leaves: 500 Internal Server Error, in one write/);
		assert.match(await text("#why"), /^No byte of another answer has been sent, so the gateway can give its own/);
	},
	async "a box shows where more of it is hidden, and a question finds the chart at its beginning"() {
		for (const width of [1280, 390]) {
			await page.setViewportSize({ width, height: 720 });
			await fresh("#" + new URLSearchParams({ request: "GET / HTTP/1.0\\r\\n" + "X: 1\\r\\n".repeat(30) + "\\r\\n" }));
			await preset("a generator");
			const [left, hidden, shade] = await page.evaluate(() => { const e = $("timeline"); return [e.scrollLeft, e.scrollWidth > e.clientWidth + 1, e.classList.contains("more-right")]; });
			assert.deepEqual([left, shade], [0, hidden], `at ${width}`);
			await page.click("#last");
			assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll("#timeline, #environ, #app-source, #out")].filter(e => e.checkVisibility()).filter(e =>
				e.classList.contains("more-below") !== e.scrollTop + e.clientHeight < e.scrollHeight - 1 || e.classList.contains("more-right") !== e.scrollLeft + e.clientWidth < e.scrollWidth - 1).map(e => e.id)), [], `at ${width}`);
		}
		assert.ok(await page.locator("#timeline").evaluate(e => e.classList.contains("more-left") && !e.classList.contains("more-right")));
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "all that is said is inside its box"() {
		await page.setViewportSize({ width: 1280, height: 800 });
		await fresh();
		await preset("POST, with a body");
		await page.click("summary");
		await page.click("#back");
		assert.ok(await page.evaluate(() => $("why").getBoundingClientRect().bottom <= $("now").getBoundingClientRect().bottom));
		await page.click("summary");
		await page.setViewportSize({ width: 390, height: 844 });
		await preset("refused: a broken escape");
		await page.click("#back");
		assert.ok(await page.evaluate(() => $("wire").scrollHeight <= $("wire").clientHeight || getComputedStyle($("wire")).overflowY === "auto"));
		const {width, height} = await page.locator("#question button").boundingBox();
		assert.ok(width >= 24 && height >= 24, `a ★ is ${width} by ${height}`);
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "a space that is the bad byte is seen, and moves nothing"() {
		for (const name of ["refused: a space before the colon", "refused: two spaces"]) {
			await fresh();
			await preset(name);
			const [sign, width, other] = await page.evaluate(() => {
				const bad = document.querySelector("#marks .bad");
				const other = document.createRange(), letters = document.querySelector("#marks .range").firstChild;
				other.setStart(letters, 0);
				other.setEnd(letters, 1);
				return [getComputedStyle(bad, "::after").content, bad.getBoundingClientRect().width, other.getBoundingClientRect().width];
			});
			assert.match(sign, /␣|^attr\(data-sign\)$/); // Firefox does not say what attr is
			assert.ok(Math.abs(width - other) < .5, `${width} and ${other}`);
		}
		await preset("refused: a broken escape");
		assert.equal(await page.locator("#marks .bad[data-sign]").count(), 0);
	},
	async "a reset ends an answer that broke off without a Content-Length"() {
		await fresh();
		await preset("a failure after the head");
		assert.equal((await page.locator("svg .pill").allTextContents()).filter(text => text === "reset").length, 1);
		await step(/closes the connection/);
		assert.match(await text("#why"), /^A reset ends this answer/);
		await page.waitForFunction(() => /needsReset/.test(document.querySelector("#gateway-source .current")?.textContent));
		await preset("a failure before the head");
		assert.ok(!(await page.locator("svg .pill").allTextContents()).includes("reset"));
	},
	async "a line of code lights what it did, and leads there"() {
		await fresh();
		await preset("two layers of middleware");
		await step(/hello calls startResponse/);
		const line = page.locator("#app-source span", { hasText: "return Blocks" });
		await line.hover();
		assert.deepEqual(await page.locator("svg .step.hot title").allTextContents(), ["hello returns a body, Blocks", "hello gives a block of 14 bytes"]);
		await line.click();
		assert.equal(await text("#sentence"), "hello returns a body, Blocks");
		await page.hover("svg .step.current");
		assert.match(await page.locator("#app-source .hot").textContent(), /return Blocks/);
	},
	async "where there is room, the gateway's code is beside the layer's"() {
		for (const [width, height] of [[1280, 900], [1920, 1080]]) {
			await page.setViewportSize({ width, height });
			await fresh();
			await preset("a head that waits");
			await step(/write calls startResponse/);
			assert.ok(await visible("#app-source .current") && await visible("#gateway-source .current"), `at ${width}`);
			assert.match(await page.locator("#gateway-source").textContent(), /^func \(r \*Response\) startResponse/);
		}
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "text has four sizes"() {
		for (const [width, sizes] of [[1280, [13, 15, 18, 24]], [390, [13, 15, 18]], [1920, [15, 17, 21, 30]]]) {
			await page.setViewportSize({ width, height: 900 });
			await fresh();
			await preset("two layers of middleware");
			await page.click("#back");
			const used = await page.evaluate(() => [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && !e.matches(".n, .star, #guess") &&
				[...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => [parseFloat(getComputedStyle(e).fontSize), e.outerHTML.slice(0, 100)]));
			assert.deepEqual(used.filter(([size]) => !sizes.includes(size)), []);
			for (const size of sizes) assert.ok(used.some(([used]) => used === size), `nothing has ${size} at ${width}`);
		}
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "what has not been sent is not shown, the rest of what is to come can be read"() {
		await fresh();
		await preset("two layers of middleware");
		await step(/the gateway stores/);
		assert.equal((await text("#out")).trim(), "no byte yet");
		for (const colorScheme of ["light", "dark"]) {
			await page.emulateMedia({ colorScheme });
			assert.deepEqual(await faint(true), [], colorScheme);
		}
		await page.emulateMedia({ colorScheme: "light" });
		await step(/the head leaves/);
		assert.match(await text("#out"), /^HTTP\/1\.0 200 OK/);
	},
	async "a real request can be pasted"() {
		await fresh();
		const paste = async request => {
			await page.evaluate(request => navigator.clipboard.writeText(request), request);
			await page.focus("#request");
			await press("Control+a", "Control+v");
			await page.waitForTimeout(500); // it waits for the next key
			await ready();
		};
		await paste("GET /pasted?x=1 HTTP/1.1\r\nHost: example.org\r\nAccept: */*");
		assert.match(await text("#environ"), /PATH_INFO\s+\/pasted\n/);
		assert.match(await text("#out"), /^HTTP\/1\.0 200 OK/);
		await paste("GET /whole HTTP/1.1\r\nHost: example.org\r\n\r\n");
		assert.match(await text("#environ"), /PATH_INFO\s+\/whole\n/);
		await paste("GET /escaped HTTP/1.0\\r\\nA: b\\r\\n\\r\\n"); // as for rawsgi send
		assert.match(await text("#environ"), /PATH_INFO\s+\/escaped\n/);
	},
	async "the text area and its colours are the same text in the same places"() {
		for (const request of ["GET /a%20b?c=4 HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n", "GET /" + "x".repeat(300) + " HTTP/1.0\\r\\nA: " + "y z ".repeat(60) + "\\r\\n\\r\\n"]) {
			await experiment({ request });
			const [area, marks] = await page.evaluate(() => {
				const marks = $("marks").cloneNode(true);
				marks.querySelectorAll(".end").forEach(e => e.remove());
				return [$("request").value, marks.textContent.replace("\u200b", "")];
			});
			assert.equal(marks, area);
			const sizes = await page.evaluate(() => [$("request").scrollHeight, $("marks").scrollHeight]);
			assert.equal(sizes[0], sizes[1]);
		}
	},
	async "bytes, key, arrow and sentence light up together"() {
		await fresh();
		const range = await page.locator("#marks [data-n='2']").boundingBox();
		await page.mouse.move(range.x + range.width / 2, range.y + range.height / 2);
		const hot = selector => page.locator(selector + ".hot");
		assert.match(await hot("#environ tr").innerText(), /PATH_INFO/);
		assert.equal(await hot("svg .step").locator("title").textContent(), 'PATH_INFO is "/a b", decoded once');
		assert.match(await text("#sentence"), /^PATH_INFO is/);
		await page.hover("#environ tr:has-text('HTTP_HOST')");
		assert.equal(await hot("#marks span").innerText(), "Host: localhost");
		assert.equal(await hot("svg .step").count(), 1);
		await page.hover("svg .step:has-text('QUERY_STRING')");
		assert.equal(await hot("#marks span").innerText(), "c=4");
		await page.hover("h1");
		assert.equal(await page.locator(".hot").count(), 0);
		await page.focus("#request");
		await page.evaluate(() => $("request").setSelectionRange(5, 5));
		await page.waitForFunction(() => /^bytes 4 to 9: PATH_INFO/.test($("at").textContent));
		assert.match(await hot("#environ tr").innerText(), /PATH_INFO/);
	},
	async "the keyboard does all of it"() {
		await fresh();
		await press("ArrowLeft");
		const at = async () => /^step (\d+) of/.exec(await text("#where"))[1];
		const last = Number(await at()) + 1;
		await press("Home");
		assert.equal(await at(), "1");
		await press("ArrowRight", "ArrowRight");
		assert.equal(await at(), "3");
		await press("End");
		assert.equal(await at(), String(last));
		assert.equal(await page.getAttribute("#next", "aria-disabled"), "true");
		await page.selectOption("#example", "HEAD");
		await page.waitForFunction(() => !stepped);
		await page.focus("#next"); // with a question, it begins at the beginning
		await press("Enter");
		assert.equal(await at(), "1");
		await fresh();
		await press("End");
		await page.focus("#back");
		await press("Enter", "Enter");
		assert.equal(await at(), String(last - 2));
		assert.equal(await (await press("Home")).getAttribute("id"), "back"); // the focus is never lost
		await page.focus("#step");
		await press("ArrowRight");
		assert.equal(await at(), "2");
		await page.focus("#request");
		await press("ArrowRight", "Home");
		assert.equal(await at(), "2"); // there, the arrows are the caret's
		await page.locator("#environ button >> text=PATH_INFO").focus();
		assert.equal(await (await press("Enter")).innerText(), "PATH_INFO");
		assert.match(await text("#sentence"), /^PATH_INFO/);
		assert.equal(await (await press("ArrowDown")).innerText(), "QUERY_STRING");
		await page.evaluate(() => document.activeElement.blur());
		await press("Home", "Space");
		await page.waitForFunction(() => shown > 1);
		assert.equal(await page.getAttribute("#play", "aria-label"), "Pause");
		await press("Space");
		assert.equal(await page.getAttribute("#play", "aria-label"), "Play");
		await page.focus("#example");
		const stops = [];
		for (let i = 0; i < 32; i++) {
			stops.push(await page.evaluate(() => document.activeElement.id));
			await press("Tab");
		}
		for (const id of ["app", "add", "arrival", "run", "link", "request", "out", "onion", "first", "next", "step"]) assert.ok(stops.includes(id), `${id} is not among ${stops}`);
		assert.equal(new Set(stops.filter(id => id.startsWith("key-"))).size, 1, `environ is one stop, among ${stops}`);
	},
	async "all has a name and a role"() {
		await fresh();
		const tree = await page.locator("body").ariaSnapshot();
		for (const what of ['combobox "Experiment"', 'combobox "Application"', 'combobox "Middleware"', 'combobox "Arrives"', 'button "Run"',
			'textbox "Request', 'region "The gateway', 'region "The application', 'slider "Step"', 'button "Step forwards"', 'img "Who calls whom', 'group "environ"']) {
			assert.ok(tree.includes(what), `no ${what} in\n${tree}`);
		}
		assert.match(await page.getAttribute("#step", "aria-valuetext"), /^step \d+ of \d+: the gateway closes the connection$/);
		assert.equal(await page.locator("button:not([aria-label])").evaluateAll(list => list.filter(b => !b.innerText.trim() && b.checkVisibility()).length), 0);
	},
	async "one read is not one request, and one click"() {
		await fresh();
		await preset("byte by byte");
		assert.ok(await page.evaluate(() => steps.length < events.length - 20));
		await step(/come one by one/);
		assert.match(await text("#sentence"), /^\d+ bytes come one by one: 0 to \d+$/);
		await experiment({ request: "POST /a HTTP/1.0\\r\\nContent-Length: 3\\r\\n\\r\\nxyz", app: "echo", arrival: "byte by byte" });
		await step(/come one by one/);
		assert.equal((await page.locator("#marks > .future").allTextContents()).join("").replace(/\\r\\n|\n/g, ""), "xyz");
	},
	async "what has not happened is pale, what happens is framed, without colours too"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n", app: "write", step: 9 });
		assert.ok(await page.locator("#out .future").count() > 0 && await page.locator("svg .step.future").count() > 5);
		assert.equal(await page.locator("svg .step.current").count(), 1);
		await step(/the head leaves/);
		assert.equal(await page.locator("#out .current").first().evaluate(e => getComputedStyle(e).boxShadow !== "none"), true);
		await page.emulateMedia({ forcedColors: "active" });
		assert.ok((await page.locator("#marks [data-n]").evaluateAll(list => list.map(e => e.dataset.n))).length >= 3); // numbers carry what colours do
		await page.emulateMedia({ forcedColors: "none" });
	},
	async "everything can be read, in the dark too"() {
		for (const colorScheme of ["light", "dark"]) {
			await page.emulateMedia({ colorScheme });
			for (const name of ["two layers of middleware", "refused: a space before the colon", "a failure before the head"]) {
				await fresh();
				await preset(name);
				assert.deepEqual(await faint(), [], colorScheme);
				await page.click("#back");
				await page.hover("h1");
				assert.deepEqual(await faint(), [], colorScheme);
			}
		}
		await page.emulateMedia({ colorScheme: "light" });
	},
	async "a log is not a fault"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n", use: "onion,log" });
		assert.ok(await page.locator(".layer > .log").count() >= 4);
		const [log, ink] = await page.evaluate(() => [".layer > .log", ".layer > .start"].map(s => getComputedStyle(document.querySelector(s)).color));
		assert.notEqual(log, ink);
		assert.equal(await page.locator("svg .burst").count(), 0);
	},
	async "a link holds the experiment and the step"() {
		await fresh();
		await preset("two layers of middleware");
		await step(/the gateway stores/);
		await page.click("#link");
		await page.waitForFunction(() => /link/.test(document.querySelector("#status").textContent));
		const link = await page.evaluate(() => navigator.clipboard.readText());
		await page.goto("about:blank");
		await page.goto(link);
		await ready();
		assert.equal(await page.inputValue("#use"), "onion,upper");
		assert.match(await text("#sentence"), /^the gateway stores/);
		await fresh("#request=GET / HTTP/1.0\\r\\n\\r\\n");
		assert.equal(await page.inputValue("#app") + ", " + await page.inputValue("#arrival"), "environ, at once");
		await page.evaluate(() => { location.hash = "#request=GET /other HTTP/1.0\\r\\n\\r\\n"; });
		await page.waitForFunction(() => /other/.test(asked.request));
	},
	async "on a menu, left and right step, up and down choose"() {
		await fresh();
		await preset("byte by byte");
		await page.focus("#example");
		await press("Home");
		await preset("a generator");
		await page.focus("#example");
		await press("ArrowRight", "ArrowRight", "ArrowRight");
		assert.equal(await page.inputValue("#example"), "a generator");
		assert.match(await text("#where"), /^step 3 of/);
		await press("ArrowLeft");
		assert.match(await text("#where"), /^step 2 of/);
		await press("ArrowDown");
		assert.equal(await page.inputValue("#example"), "startResponse at the last moment");
		await ready();
	},
	async "a timeout is the gateway's, not the client's end"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\nA: b\\r\\n\\r\\n", arrival: "the first half, then silence" });
		assert.equal(await page.locator("svg .step:has-text('reading ends') .clock").count(), 1);
		assert.equal(await page.locator("svg .step:has-text('reading ends') .tip").count(), 0);
		await experiment({ request: "GET / HTTP/1.0\\r\\nA: b\\r\\n\\r\\n", arrival: "the first half, then the client leaves" });
		assert.equal(await page.locator("svg .clock").count(), 0);
		assert.ok(await page.locator("svg .step:has-text('has ended its half') .tip").count() > 0);
	},
	async "the menu's experiments need no program, and it says how far the program is"() {
		url = pages["the site"];
		let asked = 0, release;
		const held = new Promise(resolve => { release = resolve; });
		await page.route("**/rawsgi.wasm.gz", async route => { asked++; await held; await route.continue(); });
		await fresh();
		for (const name of ["HTTP/0.9", "a generator", "refused: TLS"]) await preset(name);
		await step(/TLS|400/);
		await page.click("#where a");
		await page.waitForFunction(() => /func/.test($("code").innerText));
		await page.keyboard.press("Escape");
		assert.equal(asked, 0);
		await page.evaluate(() => {
			window.said = [];
			new MutationObserver(() => window.said.push($("status").textContent)).observe($("status"), { childList: true });
		});
		await page.fill("#request", "GET /mine HTTP/1.0\n\n");
		await page.waitForTimeout(500);
		release();
		await page.waitForFunction(() => asked && /mine/.test(asked.request));
		assert.equal(asked, 1);
		const said = await page.evaluate(() => window.said);
		assert.ok(said.some(text => /^The program is loading: [\d.]+ of 2\.\d MB$/.test(text)), said.join("|"));
		await page.unroute("**/rawsgi.wasm.gz");
		url = pages["the server"];
	},
	async "labels do not touch, on a phone either"() {
		for (const width of [390, 1280]) {
			await page.setViewportSize({ width, height: 844 });
			await fresh();
			for (const name of await page.locator("#example option").evaluateAll(list => list.map(o => o.value).filter(Boolean))) {
				await preset(name);
				const touching = await page.evaluate(() => {
					const all = [...document.querySelectorAll("#chart .pill, #chart .burstname, #chart .heldname")].map(e => [e.textContent, e.getBoundingClientRect()]);
					return all.flatMap(([a, r], i) => all.slice(i + 1).filter(([, s]) => r.left < s.right - 1 && s.left < r.right - 1 && r.top < s.bottom - 2 && s.top < r.bottom - 2).map(([b]) => a + " and " + b));
				});
				assert.deepEqual(touching, [], width + ": " + name);
			}
		}
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "on a phone, the column of the step opens"() {
		await page.setViewportSize({ width: 390, height: 844 });
		await fresh();
		await preset("two layers of middleware");
		for (const [sentence, column] of [[/^PATH_INFO/, "#gateway"], [/calls the application hello/, "#application"], [/the head leaves/, "#wire"]]) {
			await step(sentence);
			assert.ok(await page.isVisible(column), column);
		}
		for (const size of [{ width: 390, height: 844 }, { width: 320, height: 640 }, { width: 640, height: 360 }]) { // 360: at 200% zoom
			await page.setViewportSize(size);
			await fresh();
			await page.focus("#request");
			const parts = await page.evaluate(() => ["#wire", "#now", "#timeline"].map(s => document.querySelector(s).getBoundingClientRect()).map(r => [r.top, r.bottom]));
			assert.ok(parts.every(([top], i) => !i || top >= parts[i - 1][1]), `something is covered at ${size.width}: ${parts.join(" ")}`);
			assert.ok(size.height < 800 || parts[2][1] <= size.height, "the timeline is not on the first screen");
			assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it scrolls sideways at " + size.width);
		}
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "many fields of one name leave room for the values, and names are whole"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\n" + "X: 1\\r\\n".repeat(99) + "\\r\\n" });
		assert.match(await text("#environ tr:has-text('HTTP_X')"), /^4–102HTTP_X/);
		assert.ok(await page.locator("#environ tr:has-text('HTTP_X') td").nth(1).evaluate(e => e.offsetWidth > 150));
		await experiment({ request: "POST / HTTP/1.0\\r\\nContent-Length: 40000\\r\\n\\r\\n" + "x".repeat(40000), app: "echo" });
		assert.deepEqual(await page.locator("svg .pill").evaluateAll(list => list.filter(e => /^\d/.test(e.textContent) && / /.test(e.textContent) && (!/ k?B$/.test(e.textContent) || e.getBBox().width > 47)).map(e => e.textContent)), []);
		await fresh("#request=" + encodeURIComponent("GET / HTTP/1.0\\r\\nA : b\\r\\n\\r\\n"));
		assert.ok(await page.locator("#lanes span").evaluateAll(list => list.every(e => e.scrollWidth <= e.offsetWidth)));
	},
	async "what is wrong is said, with what to do"() {
		await fresh();
		await page.evaluate(() => wrap(["nonsense"])); // as a link may ask
		await page.waitForFunction(() => /no middleware is called/.test($("status").textContent));
		assert.equal(await page.locator("main").evaluate(e => getComputedStyle(e).opacity), "0.5"); // it is older
		await page.click(".chip");
		await page.waitForFunction(() => !document.body.classList.contains("stale"));
		await page.evaluate(() => { $("request").value = "x".repeat(70000); $("request").dispatchEvent(new Event("input")); });
		await page.waitForFunction(() => /may have 65536 bytes here, this one has 70000/.test($("status").textContent));
		const file = await context.newPage();
		await file.goto("file://" + join(site, "lab/index.html"));
		await file.waitForFunction(() => /Opened as a file.*go run \./.test(document.querySelector("#status").textContent));
		await file.close();
		troubles.splice(0, troubles.length, ...troubles.filter(line => !line.includes("400")));
	},
	async "what curl prints, a curl command and a URL become requests"() {
		for (const [pasted, request] of [
			["* Connected\n> GET /a HTTP/1.1\n> Host: h\n> \n< HTTP/1.0 200 OK", "GET /a HTTP/1.1\nHost: h\n\n"],
			["http://localhost:8000/a%20b?c=d", "GET /a%20b?c=d HTTP/1.1\nHost: localhost:8000\n\n"],
			["curl -i -H 'X: y z' -d a=b http://h/p", "POST /p HTTP/1.1\nHost: h\nX: y z\nContent-Length: 3\n\na=b"],
			["curl -I localhost/x", "HEAD /x HTTP/1.1\nHost: localhost\n\n"],
		]) {
			await fresh();
			await page.evaluate(text => navigator.clipboard.writeText(text), pasted);
			await page.focus("#request");
			await press("Control+a", "Control+v");
			assert.equal(await page.inputValue("#request"), request);
			await page.waitForTimeout(500);
			await ready();
			assert.match(await text("#status"), /^(The > of curl|The request of this)/);
			assert.match(await text("#out"), /^HTTP\/1\.0 200/);
		}
	},
	async "a curl command that is typed is said to be one, and Run turns it into a request"() {
		await fresh();
		await page.fill("#request", "curl http://h/typed");
		await page.waitForFunction(() => /Run turns it into a request/.test($("status").textContent));
		await page.click("#run");
		await page.waitForFunction(() => /typed/.test(asked.request));
		assert.match(await page.inputValue("#request"), /^GET \/typed HTTP\/1\.1\nHost: h\n/);
		assert.equal(await text("#status"), "The request of this curl command.");
	},
	async "a step has a why, its rule and its chapter"() {
		await fresh();
		await step(/the head leaves/);
		assert.match(await text("#why"), /^The first block that is not empty, or the end, sends the head before it\. PEP 3333, chapter 8$/);
		assert.equal(await page.locator("#why a").count(), 2);
		const headings = {}; // of a chapter, as GitHub and the site name them
		for (const [, chapter, heading] of await page.evaluate(() => Object.entries(whys).map(([kind, [, , n, heading]]) => [kind, chapters[n], heading]))) {
			headings[chapter] ||= [...(await readFile(new URL(`../docs/${chapter}.md`, import.meta.url), "utf8")).matchAll(/^##+ (.*)/gm)]
				.map(([, title]) => title.toLowerCase().replace(/[^\p{L}\p{N}_ -]/gu, "").replaceAll(" ", "-"));
			assert.ok(headings[chapter].includes(heading), `${chapter} has no ${heading}`);
		}
		for (const name of await page.locator("#example option").evaluateAll(list => list.map(o => o.value).filter(Boolean))) {
			await preset(name);
			assert.deepEqual(await page.evaluate(() => events.filter(e => !/\w+ .*chapter \d/.test(whyOf(e).textContent) || !/#[a-z]/.test(whyOf(e).innerHTML)).map(e => e.kind)), [], name);
		}
	},
	async "the experiments are a tour, and Back goes to the last one"() {
		await fresh();
		assert.match(await text("#about"), /^A browser sends bytes/);
		assert.match(await text("#place"), /^1 of \d+$/);
		await page.click("#following");
		await page.waitForFunction(() => asked.arrival === "byte by byte");
		assert.match(await text("#place"), /^2 of \d+$/);
		await page.goBack();
		await page.waitForFunction(() => asked.arrival === "at once");
		assert.equal(await page.inputValue("#example"), "a path and a query");
		await page.click("#signs");
		assert.ok(await visible("#legend"));
		const explained = await page.locator("#legend dt").allTextContents();
		for (const sign of ["★", "?", "dashed arrow", "lost", "half", "end"]) assert.ok(explained.includes(sign), sign);
		await page.mouse.click(600, 400); // inside
		assert.ok(await page.isVisible("#legend"));
		await page.mouse.click(5, 5);
		assert.ok(await page.isHidden("#legend"));
	},
	async "a large request is drawn once, and a step changes only what it is about"() {
		await experiment({ request: "POST / HTTP/1.0\\r\\nContent-Length: 30000\\r\\n\\r\\n" + ("x".repeat(58) + "\\r\\n").repeat(500), app: "echo" });
		const changes = await page.evaluate(async () => {
			let changed = 0, drawn = 0;
			const observer = new MutationObserver(list => {
				changed += list.length;
				for (const change of list) if (change.target.closest("#marks, #out, #environ, #onion, #chart")) drawn += change.addedNodes.length;
			});
			observer.observe(document.body, { subtree: true, childList: true, attributes: true });
			const counts = [];
			for (let n = steps.length; n > 0; n--) {
				go(n);
				await null;
				counts.push(changed);
				changed = 0;
			}
			observer.disconnect();
			return [Math.max(...counts), drawn];
		});
		assert.ok(changes[0] < 100 && changes[1] === 0, changes.join());
		const [key, one] = await page.evaluate(() => {
			const median = f => { const all = Array.from({ length: 9 }, () => { const t = performance.now(); f(); return performance.now() - t; }); return all.sort((a, b) => a - b)[4]; };
			let n = 1;
			return [median(() => { $("request").value += "x"; drawRequest(); $("marks").offsetHeight; }), median(() => { go(1 + n++ % steps.length); document.body.offsetHeight; })];
		});
		console.log(`      a key ${key.toFixed(1)} ms, a step ${one.toFixed(1)} ms, and at most ${changes[0]} changes`); // asked: 50 and 16
	},
	async "the code of a step is beside it, and its line is lit"() {
		await fresh();
		await preset("two layers of middleware");
		for (const [sentence, code, lit] of [[/upper calls startResponse/, /^func upper/, /startResponse\(status, headers/], [/hello calls startResponse/, /^func hello/, /startResponse\("200 OK"/],
			[/upper returns/, /^func upper/, /return changed\(/], [/calls the application hello/, /^func upper/, /application\(environ/]]) {
			await step(sentence);
			await page.waitForFunction(code => new RegExp(code).test($("app-source").textContent), code.source);
			assert.match(await page.locator("#app-source .current").textContent(), lit);
			assert.ok(await visible("#app-source .current"));
		}
		await preset("a failure before the head");
		await step(/panics/);
		await page.waitForFunction(() => /panic\(errors\.New/.test(document.querySelector("#app-source .current")?.textContent));
	},
	async "every step of the gateway has a line of code"() {
		await fresh();
		const unknown = new Set();
		for (const name of await page.locator("#example option").evaluateAll(list => list.map(o => o.value).filter(Boolean))) {
			await preset(name);
			for (const kind of await page.evaluate(() => events.flatMap((e, n) => spots[n].number || e.kind === "log" || e.kind === "length" && !/a Content-Length of/.test(e.text) ? [] : [e.kind + " " + (e.key || "")]))) unknown.add(kind);
		}
		assert.deepEqual([...unknown], []);
		await preset("refused: both kinds of line end"); // one of two refusals by the same rule
		await step(/^400/);
		assert.match(await page.locator("#gateway-source .current").textContent(), /refuse\(.*len\(line\), "expected %s/);
		for (const [name, sentence, lit] of [["an inferred Content-Length", /^the answer/, /append\(r\.headers/], ["an unknown length", /^the answer/, /^$/],
			["HEAD", /no body/, /length: e\.request\.Length/], ["a failure before the head", /the gateway logs/, /^$/]]) {
			await preset(name);
			await step(sentence);
			assert.match((await page.locator("#gateway-source .current").allTextContents()).join(), lit, name); // no line is lit that did not run
		}
	},
	async "environ is in three groups"() {
		await fresh();
		assert.deepEqual(await page.locator("#environ th").allInnerTexts(), ["from the bytes of the request", "from the connection", "from the gateway: no client can set it"]);
		const keys = await page.locator("#environ tr").allTextContents();
		const at = name => keys.findIndex(text => text.includes(name));
		assert.ok(at("HTTP_HOST") < at("from the connection") && at("from the connection") < at("REMOTE_ADDR") && at("REMOTE_ADDR") < at("from the gateway") && at("from the gateway") < at("wsgi.url_scheme"));
	},
	async "phases lead through the exchange, and breaks show where time passes"() {
		await fresh();
		await preset("a generator");
		assert.deepEqual(await page.locator("svg .phase title").allTextContents().then(all => all.slice(0, 4)), ["receive", "read", "call", "send"]);
		await page.locator("svg .phase").nth(2).click();
		assert.match(await text("#sentence"), /^the gateway calls/);
		const breaks = await page.locator("svg .pausename").allTextContents();
		assert.ok(breaks.length === 2 && breaks.every(text => /^\d+ ms$/.test(text)), breaks.join());
		await preset("too slow");
		assert.ok((await page.locator("svg .pausename").allTextContents()).includes("2 s"));
		const pauses = await page.locator("svg .pausename").evaluateAll(list => list.map(e => e.getBoundingClientRect()).map(r => [r.left, r.right]));
		assert.ok(pauses.every(([left], i) => !i || left > pauses[i - 1][1]), JSON.stringify(pauses)); // they do not touch
		assert.notEqual(await page.locator("svg .clock").first().evaluate(e => getComputedStyle(e).fill), "rgb(0, 0, 0)");
	},
	async "the result has a headline"() {
		await fresh();
		await preset("a path and a query");
		assert.match(await text("#h-out"), /^Answer: 200 OK, 151 bytes: head 137, body 14$/);
		await preset("100 Continue");
		assert.match(await text("#h-out"), /^Answer: 200 OK, \d+ bytes: 100 Continue 25, head \d+, body \d+$/);
		const [all, continued, head, body] = (await text("#h-out")).match(/\d+(?= |$|, )/g).slice(1).map(Number).filter(n => n !== 100);
		assert.equal(all, continued + head + body);
		await preset("refused: a space before the colon");
		assert.match(await text("#h-out"), /^Answer: 400 Bad Request, \d+ bytes: head \d+, body \d+$/);
		await preset("HTTP/0.9");
		assert.match(await text("#h-out"), /^Answer: 14 bytes sent so far$/);
		await preset("a failure after the head");
		assert.match(await text("#h-out"), /200 OK, 178 bytes: head 150, body 28, then it breaks off: the client sees that by the reset$/);
	},
	async "every step lights something"() {
		await fresh();
		for (const name of await page.locator("#example option").evaluateAll(list => list.map(o => o.value).filter(Boolean))) {
			await preset(name);
			assert.deepEqual(await page.evaluate(() => steps.filter((s, i) => { go(i + 1); return !document.querySelector("main .current:not(.source *)"); }).map(s => s.text)), [], name);
		}
	},
	async "time passes only on its clock"() {
		const begin = Date.now();
		await experiment({ request: "GET / HTTP/1.0\\r\\nA: b\\r\\n\\r\\n", arrival: "the first half, then silence" });
		assert.ok(Date.now() - begin < 8000);
		await step(/408 Request Timeout/);
		assert.match(await text("#where"), /at 10\.0 s/);
	},
	async "it fits a phone: columns are tabs"() {
		await page.setViewportSize({ width: 390, height: 844 });
		await experiment({ request: "GET /" + "x".repeat(300) + " HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n", app: "environ" });
		assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it scrolls sideways");
		assert.deepEqual(await Promise.all(["#wire", "#gateway", "#application"].map(s => page.isVisible(s))), [true, false, false]);
		await page.getByRole("tab", { name: "The gateway" }).click();
		assert.deepEqual(await Promise.all(["#wire", "#gateway", "#application"].map(s => page.isVisible(s))), [false, true, false]);
		assert.equal(await (await press("ArrowRight")).innerText(), "The application");
		assert.ok(await page.isVisible("#application") && await visible("#sentence"));
		assert.ok(await page.locator(".buttons button").evaluateAll(list => list.every(b => b.offsetHeight >= 32)));
		await page.setViewportSize({ width: 1280, height: 720 });
	},
	async "the gallery's links open experiments"() {
		await page.goto(served);
		const links = await page.locator("a[href*='/lab#']").evaluateAll(list => list.map(a => a.href));
		assert.ok(links.length >= 9);
		for (const link of links) {
			await page.goto("about:blank");
			await page.goto(link);
			await ready();
			assert.equal(await text("#status"), "", link);
			assert.ok(await page.evaluate(() => events.some(e => e.kind === "call")), link);
		}
	},
	async "the gallery begins with the lab and the course, and its pages lead back"() {
		await page.goto(served);
		assert.deepEqual(await page.locator("a").evaluateAll(list => list.slice(0, 2).map(a => new URL(a.href).pathname)), ["/lab", "/files/README.md"]);
		for (const name of ["form", "errors", "errors/", "echo", "cgi", "proxy", "files"]) {
			await page.goto(served + name);
			await page.click("text=Up");
			assert.equal(await text("h1"), "The gallery", name);
		}
		troubles.length = 0; // cgi and proxy answer 404 or 503: they have nothing to do
	},
	async "the page of a refused request leads to it in the lab"() {
		for (const request of ["GET / HTTP/1.0\r\nHost : x\r\n\r\n", "GET  / HTTP/1.0\r\n\r\n", "\x16\x03\x01", "GET /100% HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nA: b\n\r\n"]) {
			const client = connect(new URL(served).port, "127.0.0.1");
			client.end(request, "latin1");
			let answer = "";
			client.on("data", data => { answer += data; });
			await once(client, "close");
			const [, reason, link] = /\^ (.*)\n.*\nsee it: (\S+)\n$/.exec(answer);
			await page.goto("about:blank");
			await page.goto(link);
			await ready();
			assert.ok((await text("#fault")).startsWith("400 Bad Request: " + reason), `${await text("#fault")} is not ${reason}`);
		}
	},
	async "thirty students press Run at once"() {
		await fresh();
		const statuses = await page.evaluate(() => Promise.all(Array.from({ length: 30 }, () => fetch(lab.content + "/run", {
			method: "POST", headers: { "Content-Type": "application/json" },
			body: JSON.stringify({ request: "GET / HTTP/1.0\\r\\n\\r\\n", app: "clock", use: "", arrival: "at once" }),
		}).then(answer => answer.status))));
		assert.deepEqual([...new Set(statuses)], [200]);
	},
	async "the server and the site tell the same"() {
		const told = {};
		for (const [name, from] of Object.entries(pages)) {
			url = from;
			await fresh();
			told[name] = await page.evaluate(async () => {
				const all = {};
				recorded = Promise.resolve({}); // the program itself is asked
				for (const [name, question, request, more] of examples) {
					if (!question) continue;
					const answer = await ask("/run", JSON.stringify({ ...usual, ...more, request: escaped(request) }));
					all[name] = JSON.parse(answer.text).map(e => [e.kind, e.text, e.place, e.key, e.from, e.to].join(" ").replace(/after [\d.]+m?s/g, ""));
				}
				return all;
			});
		}
		url = pages["the server"];
		assert.deepEqual(told["the site"], told["the server"]);
	},
	async "nothing is unused"() {
		await fresh();
		const script = (await page.locator("script").textContent()).replace(/\/\/ .*/g, ""); // without comments
		for (const [, name] of script.matchAll(/^(?:const|let|class|(?:async )?function) ([\w$]+)/gm)) {
			assert.ok(script.match(/[\w$]+/g).filter(word => word === name).length > 1, name + " is unused");
		}
	},
};

// What Firefox cannot be asked for from outside.
const chromiumOnly = {
	async "forced colours do not cover the marks"() {
		await page.emulateMedia({ forcedColors: "active" });
		await fresh();
		const [paper, ink] = await page.locator("#request").evaluate(e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]);
		assert.deepEqual([paper, ink], ["rgba(0, 0, 0, 0)", "rgba(0, 0, 0, 0)"]);
		assert.equal(await page.locator("#marks .range").first().evaluate(e => getComputedStyle(e).borderBottomStyle), "solid");
		await page.emulateMedia({ forcedColors: "none" });
	},
	async "nothing moves for those who do not want it"() {
		await page.emulateMedia({ reducedMotion: "reduce" });
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n", step: 3 });
		assert.equal(await page.locator("#out .future").first().evaluate(e => getComputedStyle(e).transitionDuration), "0s");
		await page.emulateMedia({ reducedMotion: "no-preference" });
	},
	async "the whole sequence is printed"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n", step: 3 });
		await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
		await page.emulateMedia({ media: "print" });
		assert.ok(await page.isVisible("#all li:last-child") && await page.isHidden("#run"));
		assert.equal(await page.locator("#out .future").first().evaluate(e => getComputedStyle(e).opacity), "1");
		await page.emulateMedia({ media: "screen" });
		await page.evaluate(() => dispatchEvent(new Event("afterprint")));
	},
	async "without JavaScript, it says what to do"() {
		const plain = await browser.newContext({ javaScriptEnabled: false }), still = await plain.newPage();
		await still.goto(pages["the server"]);
		assert.match(await still.locator("body").innerText(), /it needs JavaScript/);
		await plain.close();
	},
	async "pictures"() {
		if (!pictures) return;
		await page.emulateMedia({ reducedMotion: "reduce" });
		await fresh();
		await preset("a path and a query");
		await step(/the gateway stores/);
		await page.hover("#environ tr:has-text('PATH_INFO')");
		await picture("lab");
		await page.hover("h1");
		await preset("two layers of middleware");
		await step(/upper calls startResponse/);
		await picture("lab-onion");
		await preset("refused: a space before the colon");
		await picture("lab-refused");
		await preset("a generator");
		await step(/of the body leave$/);
		await picture("lab-generator");
		await page.emulateMedia({ colorScheme: "dark" });
		await preset("a failure after the head");
		await step(/panics/);
		await picture("lab-dark");
		await page.emulateMedia({ colorScheme: "light" });
		await page.setViewportSize({ width: 390, height: 844 });
		await preset("a path and a query");
		await step(/the head leaves/);
		await picture("lab-phone");
		await page.setViewportSize({ width: 1280, height: 720 });
		await page.goto("about:blank");
		await page.setContent(await trace());
		await page.locator("pre").screenshot({ path: `${pictures}/trace.png` });
	},
};

const last = {
	async "a server that has gone is said to have"() {
		await experiment({ request: "GET / HTTP/1.0\\r\\n\\r\\n" });
		server.kill("SIGTERM");
		await once(server, "exit");
		await page.click("#run");
		await page.waitForFunction(() => /does not answer/.test(document.querySelector("#status").textContent));
		troubles.length = 0; // the browser tells of the refused connection
	},
};

let failed = 0;
async function run(tests, where) {
	for (const [name, test] of Object.entries(tests)) {
		try {
			await test();
			assert.deepEqual(troubles, []);
			console.log("ok    " + name + where);
		} catch (error) {
			failed++;
			troubles.length = 0;
			console.log("FAIL  " + name + where + "\n" + error.stack);
			await page.setViewportSize({ width: 1280, height: 720 });
			await page.emulateMedia({ colorScheme: "light", media: "screen", forcedColors: "none" });
		}
	}
}
for (const name of Object.keys(browsers)) {
	await open(name);
	for (const [answering, from] of Object.entries(pages).slice(name === "Firefox" ? 1 : 0).reverse()) {
		url = from;
		await run(anywhere, `, from ${answering}, in ${name}`);
	}
	url = pages["the server"];
	await run(once_, ", in " + name);
	if (name === "Chromium") await run(chromiumOnly, "");
	if (name === Object.keys(browsers).at(-1)) await run(last, "");
	await browser.close();
}
files.close();
server.kill("SIGKILL"); // it has ended, if all went well
process.exit(failed ? 1 : 0);
