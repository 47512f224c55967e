// The site in real browsers: node .ci/site-test.mjs SITE [directory for pictures]
// SITE is what .ci/site has made. It is served from a directory of a host, as a project's pages
// often are, and looked at with Chromium and Firefox.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, posix } from "node:path";
import { gzipSync } from "node:zlib";
import { chromium, firefox } from "playwright-core";

const [site, pictures] = process.argv.slice(2);
const types = { ".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml",
	".webp": "image/webp", ".png": "image/png", ".wasm": "application/wasm", ".json": "application/json" };
let down = false; // as if there were no network
const server = createServer((request, response) => {
	if (down) return request.socket.destroy();
	const path = new URL(request.url, "http://x").pathname.replace(/^\/book\//, "").replace(/(^|\/)$/, "$1index.html");
	try {
		const content = readFileSync(join(site, decodeURIComponent(path)));
		response.writeHead(200, { "Content-Type": types[extname(path)] || "application/octet-stream" }).end(content);
	} catch {
		response.writeHead(404, { "Content-Type": types[".html"] }).end("404");
	}
});
await once(server.listen(0, "127.0.0.1"), "listening");
const origin = `http://127.0.0.1:${server.address().port}`, book = origin + "/book/";

const files = readdirSync(site, { recursive: true }).map(name => name.replaceAll("\\", "/"));
const pages = files.filter(name => name.endsWith(".html") && !name.startsWith("lab/") && !name.startsWith("pagefind/")).sort();
const text = Object.fromEntries(pages.map(name => [name, readFileSync(join(site, name), "utf8")]));
const prose = pages.filter(name => !name.startsWith("code/"));
const chapters = pages.filter(name => /^\d\d-/.test(name));
const chapter = chapters.find(name => /start.response/.test(name)) || chapters.at(-1);

const browsers = {
	Chromium: () => chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] }),
	Firefox: () => firefox.launch({ channel: "moz-firefox", executablePath: process.env.FIREFOX || "/usr/bin/firefox-esr" }),
};
const troubles = [];
let browser, page;

// open returns a page of the browser, on which faults and requests to elsewhere are noted. No service
// worker stores the whole site meanwhile.
async function open(options = {}) {
	const opened = await browser.newPage({ viewport: { width: 1280, height: 800 }, serviceWorkers: "block", ...options });
	opened.setDefaultTimeout(10_000);
	opened.on("pageerror", error => troubles.push(`${opened.url()}: ${error}`));
	opened.on("console", line => { if (line.type() === "error") troubles.push(`${opened.url()}: ${line.text()}`); });
	opened.on("request", request => {
		if (!/^(data|blob|about):/.test(request.url()) && !request.url().startsWith(origin)) troubles.push(`${opened.url()} asks ${request.url()}`);
	});
	return opened;
}
const visit = (name, on = page) => on.goto(book + name);

// find types into the search field, and returns the addresses that it offers.
async function find(words) {
	await page.keyboard.press("/");
	await page.keyboard.type(words);
	await page.waitForSelector(".found a");
	return page.locator(".found a").evaluateAll(links => links.map(link => link.href));
}

// headingInTheMiddle is where a search engine might lead.
function headingInTheMiddle(name) {
	const ids = [...text[name].matchAll(/<h2 id="([^"]+)"/g)].map(([, id]) => id);
	return ids[ids.length >> 1];
}

// What needs no browser.
const byHand = {
	"links and anchors lead somewhere"() {
		const ids = {}, wrong = [];
		for (const name of pages) ids[name] = new Set([...text[name].matchAll(/ id="?([^"\s>]+)/g)].map(([, id]) => id));
		for (const name of pages) {
			const base = name === "404.html" ? "" : posix.dirname(name);
			for (const [, link] of text[name].replace(/<pre class=file[^]*/, "").matchAll(/ (?:href|src)="?([^"\s>]+)/g)) {
				if (/^(\w+:|\/$)/.test(link)) continue;
				const [path, anchor] = link.replace(/&#38;/g, "&").split("#"), target = path ? posix.join(base, path.split("?")[0]) : name;
				if (!files.includes(target)) wrong.push(`${name}: ${link}`);
				else if (anchor && ids[target] && !ids[target].has(decodeURIComponent(anchor))) wrong.push(`${name}: ${link} (no such anchor)`);
			}
		}
		assert.deepEqual(wrong, []);
	},
	"nothing leads to the reader's own machine, or to Markdown"() {
		for (const name of prose) assert.doesNotMatch(text[name], /href="[^"]*(127\.0\.0\.1|\.md["#])/, name);
	},
	"the first chapter leads to the program"() {
		assert.match(text[chapters[0]], /href="index\.html#get"/);
		assert.match(text["index.html"], /<p id="get">[^]*?href="rawsgi\.zip"/);
		assert.equal(readFileSync(join(site, "rawsgi.zip")).toString("latin1", 0, 2), "PK");
	},
	"a page has a title, a description and one first heading"() {
		for (const name of pages) {
			assert.match(text[name], /<title>[^<]+<\/title>\n<meta name="description" content="[^"]*">/, name);
			assert.equal(text[name].match(/<h1[ >]/g)?.length, 1, name);
		}
	},
	"a page weighs less than 150 KB, compressed as hosts do it, and a chapter also without that"() {
		const size = name => gzipSync(readFileSync(join(site, name))).length, frame = size("style.css") + size("site.js");
		const weights = pages.map(name => {
			const images = [...new Set([...text[name].matchAll(/<img src="([^"]+)"/g)].map(([, src]) => posix.join(posix.dirname(name), src)))];
			return [size(name) + frame + images.reduce((sum, image) => sum + readFileSync(join(site, image)).length, 0), name];
		}).sort((a, b) => b[0] - a[0]);
		console.log("     heaviest:", weights.slice(0, 3).map(([weight, name]) => `${name} ${(weight / 1000).toFixed(0)} KB`).join(", "));
		for (const [weight, name] of weights) assert.ok(weight < 150_000, `${name}: ${weight} bytes`);
		for (const name of chapters) assert.ok(text[name].length < 150_000, `${name}: ${text[name].length} bytes`);
	},
};

// What both browsers are tried with.
const both = {
	async "every page loads without an error or a request to elsewhere, and fits a phone"() {
		const widths = [320, 390];
		for (const name of pages) {
			await visit(name);
			for (const width of widths) {
				await page.setViewportSize({ width, height: 800 });
				const culprit = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth &&
					[...document.querySelectorAll("body *")].find(e => e.getBoundingClientRect().right > innerWidth && !e.closest("pre, .table, .diagram")).outerHTML);
				assert.ok(!culprit, `${name} is wider than ${width}: ${String(culprit).slice(0, 150)}`);
			}
			widths.reverse(); // the next page begins at this width
		}
		await page.setViewportSize({ width: 1280, height: 800 });
	},
	async "search finds start_response, and the keyboard goes there"() {
		await visit("index.html");
		const links = await find("start_response");
		assert.ok(links.some(link => link.includes(chapter)), links.join("\n"));
		await page.keyboard.press("ArrowDown");
		const first = await page.evaluate(() => document.activeElement.href);
		assert.equal(first, links[0]);
		await page.keyboard.press("Enter");
		await page.waitForURL(first);
	},
	async "a tick stays, and is seen in the contents"() {
		await visit(chapter);
		await page.locator(".done input").check();
		await visit("contents.html");
		assert.equal(await page.locator("#contents li.ticked").count(), 1);
		assert.ok(await page.locator("td a.ticked").count() > 0);
		await visit(chapter);
		await page.locator(".done input").uncheck();
		assert.equal(await page.locator(".ticked").count(), 0);
	},
	async "a word of the glossary is explained where it is pointed at"() {
		await visit(chapter);
		const term = page.locator(".term").first();
		assert.ok(!await term.locator(".tip").isVisible());
		await term.focus();
		await term.locator(".tip").waitFor({ state: "visible" });
		assert.ok((await term.locator(".tip").innerText()).length > 10);
	},
	async "the number of a line leads to that line of its file"() {
		await visit(chapter);
		const number = page.locator("figure.code i a").first(), href = await number.evaluate(a => a.href);
		await number.click();
		await page.waitForURL(href);
		await page.waitForFunction(() => document.querySelector("pre.file i:target"));
	},
	async "a link of a chapter opens its experiment, and the lab leads back"() {
		await visit(chapter);
		const link = page.locator("a.lab").first(), fragment = new URL(await link.evaluate(a => a.href)).hash;
		await link.click();
		await page.waitForFunction(() => document.querySelector("#run").getAttribute("aria-busy") === "false", null, { timeout: 30_000 });
		const request = new URLSearchParams(fragment.slice(1)).get("request");
		assert.ok((await page.inputValue("#request")).startsWith(request.split("\\r\\n")[0]));
		const back = await page.locator("nav a").evaluateAll(links => links.map(link => link.href));
		for (const href of back) assert.ok(files.includes(href.replace(book, "")), href);
		await visit("lab/index.html#request=GET+%2F+HTTP%2F1.0%5Cr%5CnHost+%3A+a%5Cr%5Cn%5Cr%5Cn&app=environ");
		const explained = page.locator("#fault a", { hasText: "chapter" });
		await explained.waitFor({ timeout: 30_000 });
		assert.ok(files.includes((await explained.evaluate(a => a.href)).replace(book, "").replace(/#.*/, "")));
		await page.click("#back");
		await page.locator("#why a").last().click(); // from the step to the heading that explains it
		await page.waitForFunction(() => document.querySelector("article :target"));
	},
	async "a search that cannot be loaded says so"() {
		const input = page.locator("input[type=search]");
		try {
			await visit(chapter);
			down = true;
			await input.fill("deadline");
			await page.locator(".found p", { hasText: "no network" }).waitFor();
		} finally {
			down = false;
		}
		await page.reload(); // browsers may remember that a module could not be loaded
		await input.fill("deadline");
		await page.locator(".found a").first().waitFor();
		await input.press("Escape");
		troubles.length = 0; // the module that could not be loaded
	},
	async "who comes to the middle of a page on a phone sees which page, and comes to its top"() {
		await page.setViewportSize({ width: 390, height: 844 });
		const heading = headingInTheMiddle(chapter);
		await visit(`${chapter}#${heading}`);
		const where = page.locator("header .where"), title = await page.locator("h1").innerText();
		assert.equal(await where.innerText(), title);
		const [bar, box] = await Promise.all([page.locator("header").boundingBox(), page.locator(`[id="${heading}"]`).boundingBox()]);
		assert.ok(box.y >= bar.height && box.y < bar.height + 60, `the heading is at ${box.y}, the header ends at ${bar.height}`);
		await where.click();
		await page.waitForFunction(() => document.querySelector("h1").getBoundingClientRect().top > 0);
		await page.setViewportSize({ width: 1280, height: 800 });
		await visit("code/server.go.html#L100");
		assert.equal(await where.innerText(), "server.go");
	},
	async "a small lab shows its first picture within a second"() {
		await visit(chapter);
		const frame = page.locator("figure.lab iframe").first();
		const began = Date.now();
		await frame.scrollIntoViewIfNeeded();
		await (await frame.contentFrame()).locator("svg .step").first().waitFor({ timeout: 5000 });
		assert.ok(Date.now() - began < 1000, `${Date.now() - began} ms`);
	},
};

// What one browser can show.
const once_ = {
	// Only in Chromium: it needs a context with nothing stored, and Firefox's driver, which knows a new
	// page before it is ready ("argument is not a global object"), at times never goes on after that.
	async "without a network, one reads on"() {
		const context = await browser.newContext(), offline = await context.newPage(); // with nothing stored yet
		offline.setDefaultTimeout(20_000);
		try {
			await visit(chapters[3], offline);
			await offline.waitForFunction(() => navigator.serviceWorker.controller);
			down = true;
			await offline.click(".turn [rel=next]"); // a page that has not been opened
			await offline.waitForURL(book + chapters[4]);
			const lab = offline.locator("figure.lab iframe").first();
			await lab.scrollIntoViewIfNeeded();
			await (await lab.contentFrame()).locator("svg .step").first().waitFor();
			await offline.fill("input[type=search]", "deadline");
			await offline.locator(".found a").first().waitFor();
			await visit("code/docs/check.go.html", offline);
			assert.equal(await offline.locator("h1").innerText(), "No network");
			await offline.click("article a[href='contents.html']");
			await offline.locator("h1", { hasText: "contents" }).waitFor();
		} finally {
			down = false;
			await context.close();
		}
	},
	async "axe-core finds nothing serious, in the light and in the dark"() {
		const dark = await open({ colorScheme: "dark" });
		const kinds = ["index.html", chapter, "glossary.html", "code/response.go.html", "lab/index.html?embed"]; // one style is for all
		const shown = new Set([...prose, ...pages.filter(name => name.startsWith("code/")).slice(0, 2), ...kinds]);
		const chapters = /\d/; // in the light only, but for one: they look alike
		for (const name of shown) for (const on of kinds.includes(name) || !chapters.test(name) ? [page, dark] : [page]) {
			await visit(name, on);
			await on.evaluate(axe);
			const found = await on.evaluate(() => window.axe.run({ exclude: ["figure ~ figure pre"] }, // are as the first
				{ iframes: false, resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"] }));
			const serious = found.violations.filter(v => ["serious", "critical"].includes(v.impact) || v.id === "heading-order");
			assert.deepEqual(serious.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200), v.nodes[0].any[0]?.message]), [], name);
		}
		await dark.close();
	},
	async "the keyboard alone: first to the text, then around"() {
		await visit(chapter);
		await page.keyboard.press("Tab");
		assert.equal(await page.locator(":focus").innerText(), "To the text");
		await page.keyboard.press("Enter");
		await page.keyboard.press("Tab");
		assert.ok(await page.evaluate(() => document.activeElement.closest("main")));
	},
	async "dark is dark"() {
		const dark = await open({ colorScheme: "dark" });
		await visit(chapter, dark);
		assert.equal(await dark.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(20, 22, 27)");
		await dark.close();
	},
	async "paper has the text, and nothing to click"() {
		await visit(chapter);
		await page.emulateMedia({ media: "print" });
		await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
		for (const gone of ["header", "#contents", "footer", ".turn"]) assert.ok(!await page.locator(gone).first().isVisible(), gone);
		for (const there of ["h1", "article pre", "article details:not(.diagram details) p"]) assert.ok(await page.locator(there).first().isVisible(), there);
		await page.emulateMedia({ media: "screen" });
	},
	async "without JavaScript, everything can be read"() {
		const plain = await open({ javaScriptEnabled: false });
		await visit(chapter, plain);
		for (const there of ["h1", "article p", "article pre", "#contents a", ".turn a"]) assert.ok(await plain.locator(there).first().isVisible(), there);
		assert.ok(!await plain.locator("form").isVisible());
		await plain.close();
	},
	async "prose is some 70 characters wide"() {
		await visit(chapter);
		const wide = await page.evaluate(() => {
			const p = document.createElement("p");
			p.textContent = "The request line has three parts with one space between them, and ends with CR LF. ".repeat(20);
			document.querySelector("article").append(p);
			return p.textContent.length / Math.round(p.getBoundingClientRect().height / parseFloat(getComputedStyle(p).lineHeight));
		});
		assert.ok(wide > 50 && wide < 80, `${wide}`);
	},
	async "a page in Korean, and a way there and back"() {
		await visit("glossary.html");
		await page.click("header a[hreflang=ko]");
		assert.equal(await page.locator("html").getAttribute("lang"), "ko");
		await page.click("header a[hreflang=en]");
		await page.waitForURL(book + "glossary.html");
	},
	async "pictures"() {
		if (!pictures) return;
		mkdirSync(pictures, { recursive: true });
		for (const [name, file, options] of [["index.html", "site", {}], [chapters[3], "site-chapter", {}],
			[chapters[3], "site-phone", { viewport: { width: 390, height: 844 }, colorScheme: "dark" }]]) {
			const shown = await open(options);
			await visit(name, shown);
			await shown.waitForTimeout(500);
			await shown.screenshot({ path: join(pictures, file + ".png") });
			await shown.close();
		}
	},
};

// Calls of a browser's driver wait for ever if it loses a page: a test has four minutes, and all of
// them ten. What takes longer ends the run, and with it the browser.
let failed = 0, doing;
function guard(seconds) {
	return setTimeout(() => {
		console.log(`FAIL ${doing}: not done after ${seconds} s`);
		process.exit(1);
	}, seconds * 1000);
}

// all runs tests, and says which fail.
async function all(where, tests) {
	for (const [name, test] of Object.entries(tests)) {
		const began = Date.now(), timer = guard(240);
		doing = `${where}: ${name}`;
		try {
			await test();
			assert.deepEqual(troubles.splice(0), []);
			console.log(`ok   ${doing} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
		} catch (error) {
			failed++;
			troubles.length = 0;
			console.log(`FAIL ${doing}\n     ${String(error.message).slice(0, 1500)}`);
		}
		clearTimeout(timer);
	}
}
const axe = readFileSync(join(import.meta.dirname, "node_modules/axe-core/axe.min.js"), "utf8");
guard(600);
await all("the files", byHand);
for (const [name, launch] of Object.entries(browsers)) {
	doing = `${name}: its start`;
	browser = await launch();
	page = await open();
	await all(name, both);
	if (name === "Chromium") await all(name, once_);
	doing = `${name}: its end`;
	await browser.close();
}
process.exit(failed ? 1 : 0);
