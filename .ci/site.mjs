// Builds the pages of the site: node .ci/site.mjs DIRECTORY [URL]. .ci/site calls it, and adds the
// program that the lab runs. URL is where the site will be; previews of links need it.
//
// There is no list of pages here: every Markdown file in docs/ becomes a page, every program a
// page of code, and the order of the chapters is that of the links in docs/README.md.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import MarkdownIt from "markdown-it";
import * as pagefind from "pagefind";
import { createCssVariablesTheme, createHighlighter } from "shiki";
import { draw } from "./draw.mjs";

const [site, url = ""] = process.argv.slice(2);
if (!site) {
	console.error("Usage: node .ci/site.mjs DIRECTORY [URL]");
	process.exit(2);
}
const here = import.meta.dirname, root = dirname(here);
const read = name => readFileSync(join(root, name), "utf8");
const template = name => readFileSync(join(here, "pages", name), "utf8");
const words = JSON.parse(template("words.json"));

function write(name, content) {
	mkdirSync(dirname(join(site, name)), { recursive: true });
	writeFileSync(join(site, name), content);
}

// fill puts values into a template: {{name}}.
const fill = (text, values) => text.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name] ?? "");
const escape = text => text.replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
const plain = html => html.replace(/<span class="tip".*?<\/span>|<[^>]*>/gs, "").replace(/\s+/g, " ").trim();

// ---- What there is

// Wrong answers are for the checker: they are no pages.
const sources = ["LICENSE", ...readdirSync(root).filter(name => /^\w+\.(go|md)$/.test(name)),
	...readdirSync(join(root, "docs"), { recursive: true }).map(name => "docs/" + name.replaceAll("\\", "/"))]
	.filter(name => !/\/wrong[^/]*$/.test(name)).sort();
const programs = sources.filter(name => /^LICENSE$|\.(go|py|js|conf|html)$/.test(name) && name !== "docs/lab.html");
const languages = [...new Set(sources.map(name => /^docs\/([a-z]{2})\//.exec(name)?.[1]).filter(Boolean))];

// codePath is the page of a program.
const codePath = source => `code/${source}.html`;

// A page has the file that it comes from, the place where it will be, a language and a kind.
const pages = sources.filter(name => name.endsWith(".md") && !name.endsWith("/hints.md")).map(source => {
	const lang = /^docs\/([a-z]{2})\//.exec(source)?.[1] || "en";
	const path = source === "README.md" ? "readme.html" : source === "docs/README.md" ? "contents.html" :
		source.replace(/^docs\//, "").replace(/README\.md$/, "index.html").replace(/\.md$/, ".html");
	const text = source.startsWith(`docs/${lang}/`) ? checkSections(source, lang) : read(source);
	return {
		source, path, lang, text, own: lang === "en" ? path : path.slice(3), // the name in every language
		kind: /^(\w\w\/)?\d\d-[^/]*$/.test(path) ? "chapter" : /^(\w\w\/)?exercises\/\d/.test(path) ? "exercise" : "other",
		title: /^# (.*)$/m.exec(text)?.[1].replaceAll("`", "") || path, minutes: /^Time: (.*?)\. Needs/m.exec(text)?.[1] || "",
	};
});
const pageOf = Object.fromEntries(pages.map(page => [page.source, page]));
const mentioned = [...read("docs/README.md").matchAll(/\]\(([\w./-]+\.md)/g)].map(([, link]) => "docs/" + link);
const place = page => (mentioned.indexOf(page.source) + 1 || 1000);
pages.sort((a, b) => place(a) - place(b)); // stable: what is not mentioned keeps the order of its names
const english = pages.filter(page => page.lang === "en");
const chapters = english.filter(page => page.kind === "chapter"), exercises = english.filter(page => page.kind === "exercise");
const others = english.filter(page => page.kind === "other" && !["readme.html", "contents.html"].includes(page.path));

// sections cuts a page at its headings.
function sections(text) {
	const found = text.replace(/^```[^]*?^```$/gm, block => block.replace(/^#/gm, "\0")).split(/^(?=#+ )/m);
	return found.map(section => section.replaceAll("\0", "#").trim()).filter(Boolean);
}

// checkSections returns a translation in which each section whose original has changed says so.
// Behind its heading, a section has the hash of what was translated: <!-- original: 0123abcd -->.
function checkSections(source, lang) {
	const original = sections(read(source.replace(`docs/${lang}/`, "docs/")));
	return sections(read(source)).map((section, i) => {
		const now = createHash("sha256").update(original[i] || "").digest("hex").slice(0, 8);
		const then = /<!-- original: (\w+) -->/.exec(section)?.[1];
		if (then === now) return section;
		console.error(`${source}: the original of “${section.split("\n")[0]}” has changed: ${now}, not ${then}`);
		return section.replace(/^(#+ .*)$/m, `$1\n\n<p class="old">${words[lang].old}</p>\n`);
	}).join("\n\n");
}

// ---- Code

const theme = createCssVariablesTheme({ name: "site", variablePrefix: "--" });
const highlighter = await createHighlighter({ themes: [theme], langs: ["go", "python", "javascript", "nginx", "html"] });
const grammar = { go: "go", py: "python", python: "python", js: "javascript", conf: "nginx", html: "html" };
const classes = { keyword: "k", string: "s", "string-expression": "s", comment: "c", function: "f" };

// highlight returns the lines of a program as HTML; tokens have one of four classes, or none.
function highlight(code, lang) {
	if (!grammar[lang]) return code.split("\n").map(escape);
	return highlighter.codeToTokensBase(code, { lang: grammar[lang], theme: "site" }).map(line => {
		const runs = [];
		for (const { content, color } of line) {
			const name = classes[/--token-([\w-]+)/.exec(color)?.[1]] || "", last = runs.at(-1);
			if (last && (last.name === name || !content.trim())) last.text += content;
			else runs.push({ name, text: content });
		}
		return runs.map(({ name, text }) => name ? `<span class=${name}>${escape(text)}</span>` : escape(text)).join("");
	});
}

// lineOf finds a declaration, such as serveConn or Input.Read, in a Go file.
function lineOf(source, name) {
	const [type, method] = name.split("."), lines = read(source).split("\n");
	const patterns = method ? [`^func \\(\\w* ?\\*?${type}\\) ${method}\\b`] :
		[`^(func|type|var|const) ${name}\\b`, `^func \\(.*?\\) ${name}\\b`, `^\\t${name}\\b.*=`, `^\\t${name}\\b`];
	return patterns.map(pattern => lines.findIndex(line => new RegExp(pattern).test(line)) + 1).find(Boolean);
}

// linesOf returns, for each line of an excerpt, its number in the file.
function linesOf(source, shown) {
	const lines = read(source).split("\n");
	for (let start = lines.indexOf(shown[0]); start >= 0; start = lines.indexOf(shown[0], start + 1)) {
		let at = start - 1;
		const numbers = shown.map((line, i) => /^\s*\/\/ …$/.test(line) ? 0 :
			/^\s*\/\/ …$/.test(shown[i - 1]) ? (at = lines.indexOf(line, at + 1)) + 1 : lines[++at] === line ? at + 1 : NaN);
		if (!numbers.some(Number.isNaN)) return numbers;
	}
	return [];
}

// numbered is code with line numbers; site.js makes them links to the file, as each with its own
// address would be a third of a chapter.
const numbered = (lines, numbers) => lines.map((line, i) => numbers[i] ? `<i data-n=${numbers[i]}></i>${line}` : line).join("\n");

// transcript is what happens in a terminal: commands, what they print, bytes sent and received.
function transcript(text) {
	let command = false;
	return text.split("\n").map(line => {
		const more = command && /\\$/.test(command);
		command = (line.startsWith("$ ") || more) && line;
		const name = command ? "cmd" : /^> /.test(line) ? "out" : /^< /.test(line) ? "in" : /^(\.\.\.|\^C)$/.test(line) ? "c" : "";
		return name ? `<span class=${name}>${escape(line)}</span>` : escape(line);
	}).join("\n");
}

// ---- Markdown

const md = new MarkdownIt({ html: true, linkify: false });
const diagrams = []; // sources of Mermaid; drawn when all pages have been read
const definitions = {}; // of the glossary, by language and anchor

// relative leads from a page to a path of the site.
const relative = (env, path) => posix.relative(posix.dirname(env.page.path), path) || posix.basename(path);
const labPath = fragment => "lab/index.html" + (fragment || "");

// target is where a link of a page leads on the site; undefined if to the reader's own machine.
function target(env, href) {
	const lab = /^http:\/\/127\.0\.0\.1:8000\/lab(#.*)?$/.exec(href);
	if (lab) return relative(env, labPath(lab[1]));
	if (/^\w+:/.test(href)) return href.startsWith("http://127.0.0.1") ? undefined : href;
	const [file, anchor] = href.split("#");
	if (!file) return href;
	const source = posix.join(posix.dirname(env.page.source), file).replace(/\/$/, ""), hash = anchor ? "#" + anchor : "";
	const translated = source.replace("docs/", `docs/${env.page.lang}/`);
	if (source === "README.md" && !hash) return relative(env, "index.html") + "#get"; // the program
	const page = pageOf[translated] || pageOf[source] || pageOf[source + "/README.md"];
	if (page) return relative(env, page.path) + hash;
	if (source.endsWith("/hints.md")) return relative(env, pageOf[source.replace("hints.md", "README.md")].path) + "#hints";
	if (programs.includes(source)) return relative(env, codePath(source)) + hash;
	if (programs.some(name => name.startsWith(source + "/"))) return relative(env, "code/index.html") + "#" + source;
	return href; // leads nowhere, as the test of the site will say
}

// linked is a page, file or declaration that is named in the text, as a link to it.
function linked(env, name, html) {
	const [, file, declaration] = /^([\w./-]+?)(?:#([\w.]+))?$/.exec(name) || [];
	if (pageOf[file] && pageOf[file] !== env.page) return `<a href="${relative(env, pageOf[file].path)}">${html}</a>`;
	if (!programs.includes(file)) return html;
	const line = declaration && lineOf(file, declaration);
	return `<a href="${relative(env, codePath(file))}${line ? "#L" + line : ""}">${html}</a>`;
}

// slug is the anchor that GitHub gives a heading.
function slug(env, heading) {
	const name = heading.toLowerCase().replace(/[^\p{L}\p{N}_ -]/gu, "").replaceAll(" ", "-");
	const times = env.slugs[name] = (env.slugs[name] ?? -1) + 1;
	return times ? `${name}-${times}` : name;
}

md.renderer.rules.heading_open = (tokens, i, _, env) => {
	const text = tokens[i + 1].children.map(token => token.content).join(""), id = slug(env, text), tag = tokens[i].tag;
	if (tag === "h2") env.toc.push([id, text]);
	return `<${tag} id="${id}">` + (tag === "h1" ? "" : `<a class=anchor href="#${id}" aria-hidden=true tabindex=-1></a>`);
};
md.renderer.rules.fence = (tokens, i, _, env) => {
	const [lang, place = ""] = tokens[i].info.trim().split(/\s+/), text = tokens[i].content.replace(/\n$/, "");
	if (lang === "mermaid") return `<figure class=diagram>\0${diagrams.push(text) - 1}\0` +
		`<details><summary>${words[env.page.lang].asText}</summary><pre>${escape(text)}</pre></details></figure>\n`;
	if (lang === "console") {
		const label = `${words[env.page.lang].terminal} ${/^\d$/.test(place) ? place : 1}`;
		return `<figure class=console><figcaption>${label}</figcaption><pre>${transcript(text)}</pre></figure>\n`;
	}
	const [file, name] = place.split("#");
	if (!programs.includes(file)) return `<pre class=code>${highlight(text, lang).join("\n")}</pre>\n`;
	const lines = highlight(text, lang), href = relative(env, codePath(file)), numbers = linesOf(file, text.split("\n"));
	return `<figure class=code><figcaption>${linked(env, file + "#" + name, `<code>${file}</code> ${name}`)}</figcaption>` +
		`<pre data-file="${href}">${numbered(lines, numbers)}</pre></figure>\n`;
};
md.renderer.rules.code_block = (tokens, i) => `<pre class=code>${escape(tokens[i].content.replace(/\n$/, ""))}</pre>\n`;
md.renderer.rules.table_open = () => "<div class=table><table>\n";
md.renderer.rules.table_close = () => "</table></div>\n";
md.renderer.rules.th_open = (tokens, i) => `<th${tokens[i + 1].content ? "" : " aria-label=\" \""}>`;
md.renderer.rules.code_inline = (tokens, i, _, env) => {
	const html = `<code${tokens[i].content.length > 24 ? " class=long" : ""}>${escape(tokens[i].content)}</code>`;
	return env.inLink ? html : linked(env, tokens[i].content, html);
};
md.renderer.rules.text = (tokens, i, _, env) => env.inLink ? escape(tokens[i].content) :
	escape(tokens[i].content).replace(/\bdocs\/[\w/-]+\.\w+/g, name => linked(env, name, name));
md.renderer.rules.link_open = (tokens, i, _, env) => {
	const href = tokens[i].attrGet("href"), to = env.inLink = target(env, href);
	env.tip = definitions[env.page.lang]?.[/^[^/:]*glossary\.(?:md|html)#(.*)/.exec(href)?.[1]] || "";
	if (!to) return "<code class=local>";
	const page = /\.md$/.test(tokens[i + 1].content) && pageOf[posix.join(posix.dirname(env.page.source), href)];
	if (page) tokens[i + 1].content = page.title; // a reader of the site knows no glossary.md
	if (to.includes(labPath())) return `<a class=lab href="${escape(to)}">`;
	return `<a href="${escape(to)}"${env.tip ? " class=term" : /^https?:/.test(to) ? " rel=noreferrer" : ""}>`;
};
md.renderer.rules.link_close = (tokens, i, _, env) => {
	const tip = env.tip && `<span class="tip" role="tooltip" data-pagefind-ignore>${env.tip}</span>`;
	const end = env.inLink ? tip + "</a>" : "</code>";
	env.inLink = env.tip = "";
	return end;
};
md.renderer.rules.image = (tokens, i, _, env) => {
	const source = posix.join(posix.dirname(env.page.source), tokens[i].attrGet("src")), alt = escape(tokens[i].content);
	return `<img src="${relative(env, picture(source))}" alt="${alt}" loading=lazy>`;
};

// A paragraph "Terminal 2:" is the label of the transcript below it, which has one anyhow.
md.core.ruler.push("terminals", state => {
	state.tokens = state.tokens.filter((_, i) => ![i - 1, i, i + 1].some(k => // the paragraph's three tokens
		/^Terminal \d:$/.test(state.tokens[k]?.content) && state.tokens[k + 2]?.info?.startsWith("console")));
});

// Below the block with a section's first link into the lab comes that experiment as a small lab.
md.core.ruler.push("labs", state => {
	let had = false, pending;
	state.tokens = state.tokens.flatMap(token => {
		if (token.type === "heading_open") had = false;
		for (const child of token.children || []) {
			const href = child.type === "link_open" && !had && /\/lab(#.+)$/.exec(child.attrGet("href"));
			if (href) [had, pending] = [true, href[1]];
		}
		if (!pending || token.level > 0 || token.nesting === 1) return [token];
		const small = new state.Token("html_block", "", 0);
		[small.content, pending] = [smallLab(state.env, pending), ""];
		return [token, small];
	});
});

const labs = new Set(); // the fragments of those in pages

// smallLab is an experiment in a chapter: the lab itself, and on paper or without JavaScript the request.
function smallLab(env, fragment) {
	labs.add(fragment);
	const { request = "", app, use, arrival } = Object.fromEntries(new URLSearchParams(fragment.slice(1)));
	const lines = request.split(/(?<=\\n)/).map(line => `<span class=out>${escape(line)}</span>`).join("\n");
	const how = [app, use && "-use " + use, arrival].filter(Boolean).map(escape).join(" · ");
	const sent = `<a href="${relative(env, labPath())}${escape(fragment)}" class=sent><pre>${lines}</pre>` +
		`<span>${how}</span><b>${words[env.page.lang].lab}</b></a>`;
	const frame = `<iframe loading=lazy title="${words[env.page.lang].theLab}" src="${relative(env, labPath())}?embed${escape(fragment)}"></iframe>`;
	return `<figure class="lab" data-pagefind-ignore>${frame}${sent}</figure>\n`;
}

const pictures = {}; // the places in the site of the pictures that pages show, and their files

function picture(source) {
	const path = source.replace(/^docs\//, "").replace(/png$/, "webp");
	pictures[path] = join(root, source);
	return path;
}

// ---- The frame around a page

// entry is a page in the list of contents: in the language of the page that has the list, if it is there.
function entry(env, page) {
	const own = pages.find(other => other.own === page.own && other.lang === env.page.lang) || page;
	const more = (own.path === env.page.path ? " aria-current=page" : "") + (own.lang === env.page.lang ? "" : ` lang=${own.lang}`);
	const minutes = page.minutes && `<span>${page.minutes.replace(" minutes", "′")}</span>`;
	return `<li data-done="${page.own}"><a href="${relative(env, own.path)}"${more}>${escape(own.title)}</a>${minutes}</li>`;
}

// turn leads to the chapter or exercise before and after a page.
function turn(env, way) {
	const at = way.findIndex(page => page.own === env.page.own), w = words[env.page.lang];
	const link = (page, rel, word) => page ? `<a rel=${rel} href="${relative(env, page.path)}"><small>${word}</small> ${escape(page.title)}</a>` : "";
	return at < 0 ? "" : `<nav class=turn aria-label="${w.turn}">${link(way[at - 1], "prev", w.before)}${link(way[at + 1], "next", w.next)}</nav>`;
}

// describe returns the first sentences of a page, for previews.
function describe(content) {
	const first = /<p>(?!Time:)(.*?)<\/p>/s.exec(content)?.[1] || "";
	return plain(first).replace(/&#(\d+);/g, (_, n) => String.fromCharCode(n)).slice(0, 200);
}

// frame is a whole page: a head, the way around, and the content.
function frame(env, content) {
	const { page } = env, w = words[page.lang], list = pages => pages.map(other => entry(env, other)).join("");
	const same = pages.filter(other => other.own === page.own && other !== page); // in other languages
	const toc = env.toc.map(([id, text]) => `<li><a href="#${id}">${escape(text)}</a></li>`).join("");
	const box = `<label><input type=checkbox data-page="${page.own}"> ${w[page.kind]}</label>`;
	const versions = (tag, end) => same.map(other => `<${tag} hreflang=${other.lang} href="${relative(env, other.path)}"` + end(other)).join(" ");
	return fill(template("page.html"), {
		...w, lang: page.lang, kind: page.kind, content, root: relative(env, "x").slice(0, -1) || "./",
		title: escape(page.title === "rawsgi" ? page.title : `${page.title} — rawsgi`), description: escape(describe(content)),
		base: page.base ? `<base href="${page.base}">` : "", picture: url + "card.png", index: page.noindex ? "" : `data-pagefind-body data-pagefind-weight=${page.kind === "chapter" ? 3 : 1}`,
		where: page.path === "index.html" ? "" : `<a class=where href="#text">${escape(page.title)}</a>`,
		alternate: versions("link rel=alternate", () => ">"), switch: versions("a", other => ` lang=${other.lang}>${words[other.lang].name}</a>`),
		chapters: list(chapters), exercises: list(exercises), others: list(others), open: page.kind === "exercise" ? "open" : "",
		toc: env.toc.length < 2 ? "" :
			`<details class=toc><summary>${w.onThisPage}</summary><nav aria-label="${w.onThisPage}"><ol>${toc}</ol></nav></details>`,
		done: w[page.kind] ? `<p class=done hidden>${box}</p>` : "",
		turn: turn(env, page.kind === "exercise" ? exercises : chapters),
	});
}

// ---- All pages

const envOf = page => ({ page, toc: [], slugs: {}, inLink: "", tip: "" });

for (const { lang, path, text } of pages.filter(page => page.own === "glossary.html")) {
	definitions[lang] = {};
	const env = envOf({ lang, path, source: "docs/glossary.md" });
	for (const [, id, meaning] of text.matchAll(/^\|[^|]*<a id="([^"]+)"><\/a> \| ([^|]*) \|/gm)) {
		definitions[lang][id] = md.renderInline(meaning, env).replace(/<\/?a\b[^>]*>/g, "");
	}
}
for (const lang of languages) definitions[lang] = { ...definitions.en, ...definitions[lang] };

// list is the programs of a directory, as links.
const list = (env, directory) => programs.filter(name => posix.dirname(name) === directory)
	.map(name => `<li>${linked(env, name, posix.basename(name))}</li>`).join("\n");

const built = [];
for (const page of pages) {
	const env = envOf(page);
	let content = md.render(page.text, env).replace("<p>Time: ", "<p class=time>Time: ");
	if (page.kind === "exercise") {
		const directory = posix.dirname(page.source), [, ...hints] = sections(read(directory + "/hints.md"));
		content += "<h2 id=hints>Hints</h2>\n" + hints.map(hint => /^#+ (.*)\n([^]*)/.exec(hint)).map(([, title, text]) =>
			`<details><summary>${escape(title)}</summary>${md.render(text, env)}</details>\n`).join("") +
			`<h2 id=files>Files</h2>\n<ul>${list(env, directory)}</ul>`;
		env.toc.push(["hints", "Hints"], ["files", "Files"]);
	}
	built.push([env, content]);
}

// add adds a page that comes from no Markdown.
function add(path, title, content, more = {}) {
	const page = { path, own: path, source: "README.md", lang: "en", kind: "other", title, minutes: "", noindex: true, ...more };
	built.push([envOf(page), typeof content === "string" ? content : content({ page })]);
}

const hours = Math.round(chapters.reduce((sum, page) => sum + (parseInt(page.minutes) || 0), 0) / 60);
const example = "POST /a%20b?x=1 HTTP/1.0\\r\\nHost: example.com\\r\\nContent-Length: 5\\r\\n\\r\\nHELLO";
add("index.html", "rawsgi", env => fill(template("landing.html"), {
	start: chapters[0].path, startTitle: escape(chapters[0].title), chapters: chapters.length, exercises: exercises.length, hours,
	lab: smallLab(env, `#request=${encodeURIComponent(example)}&app=environ`),
}), { noindex: false });
add("404.html", "No such page", template("404.html"), { base: url ? new URL(url).pathname : "/" });
add("offline.html", "No network", template("offline.html"));

for (const source of programs) {
	const lines = highlight(read(source).replace(/\n$/, ""), source.split(".").at(-1));
	const anchored = lines.map((line, i) => `<i id=L${i + 1}></i>${line}`);
	add(codePath(source), source, `<h1>${source}</h1>\n<pre class=file data-file="">${anchored.join("\n")}</pre>`, { kind: "code" });
}
add("code/index.html", "The source", env => "<h1>The source</h1>\n" + [...new Set(programs.map(posix.dirname))].map(directory =>
	`<h2 id="${directory}">${directory === "." ? "The program" : directory}</h2>\n<ul>${list(env, directory)}</ul>\n`).join(""));

const svgs = await draw(diagrams, pictures, template("card.html"), write);
for (const [env, content] of built) {
	write(env.page.path, frame(env, content.replace(/\0(\d+)\0/g, (_, n) => svgs[n])));
}
for (const name of ["style.css", "site.js", "icon.svg"]) copyFileSync(join(here, "pages", name), join(site, name));

// The experiments of all pages, as the lab asks for them; .ci/site records what the program answers.
const experiments = [...labs].map(fragment => {
	const { request, app = "environ", use = "", arrival = "at once" } = Object.fromEntries(new URLSearchParams(fragment.slice(1)));
	return JSON.stringify({ request, app, use, arrival });
});
write("lab/experiments.json", JSON.stringify(experiments));

// The lab, with the code that it shows; its links lead to the pages.
write("lab/index.html", read("docs/lab.html").replaceAll('+ ".md"', '+ ".html"').replaceAll('"files/" : ""', '"files/" : "../"')
	.replaceAll('["Documents", "README.md"]', '["The course", "../contents.html"]'));
for (const name of programs.filter(name => !/\/|_test/.test(name))) copyFileSync(join(root, name), join(site, "lab", name));

// ---- Search

const { index } = await pagefind.createIndex();
const { errors } = await index.addDirectory({ path: site });
if (errors.length) throw new Error(errors.join("\n"));
await index.writeFiles({ outputPath: join(site, "pagefind") });
await pagefind.close();
