// What the pages do with JavaScript, and can be read without: ticks, search, copying, small things.
const $ = (selector, within = document) => [...within.querySelectorAll(selector)];
const root = new URL(document.body.dataset.root, document.baseURI);
const here = (name, attributes = {}) => Object.assign(document.createElement(name), attributes);

// ---- Ticks, kept in this browser

const key = "rawsgi.done";
const done = () => { try { return new Set(JSON.parse(localStorage.getItem(key) || "[]")); } catch { return new Set(); } };

function showTicks() {
	const pages = done();
	for (const box of $(".done input")) box.checked = pages.has(box.dataset.page);
	for (const item of $("[data-done]")) item.classList.toggle("ticked", pages.has(item.dataset.done));
	for (const link of $("td a[href]")) link.classList.toggle("ticked", pages.has(new URL(link.href).pathname.slice(root.pathname.length).replace(/^\w\w\//, "")));
}
for (const box of $(".done input")) {
	box.closest(".done").hidden = false;
	box.onchange = () => {
		const pages = done();
		pages[box.checked ? "add" : "delete"](box.dataset.page);
		try { localStorage.setItem(key, JSON.stringify([...pages])); } catch { } // a private window may have no room
		showTicks();
	};
}
addEventListener("storage", showTicks); // ticked in another tab
showTicks();

// ---- Search

const [form] = $("form[role=search]"), [input] = $("input", form), [found] = $(".found", form);
let engine;
form.hidden = false;

async function search() {
	const words = input.value.trim();
	engine ||= import(new URL("pagefind/pagefind.js", root));
	let pages;
	try {
		const { results } = await (await engine).search(words);
		pages = await Promise.all(results.slice(0, 8).map(result => result.data()));
	} catch {
		engine = undefined; // the next key tries again, if the browser lets it
		found.replaceChildren(here("p", { textContent: input.dataset.fails }));
		return;
	}
	if (words !== input.value.trim()) return; // something else has been typed
	const links = pages.flatMap(page => (page.sub_results.length ? page.sub_results.slice(0, 3) : [page]).map(part => {
		const link = here("a", { href: part.url }), text = here("small", { innerHTML: part.excerpt }); // escaped by pagefind
		link.append(here("b", { textContent: page.meta.title }), part.title && part.title !== page.meta.title ? " — " + part.title : "", text);
		return link;
	}));
	found.replaceChildren(...words ? links.length ? links : [here("p", { textContent: "—" })] : []);
}
input.oninput = search;
form.onsubmit = event => { event.preventDefault(); $("a", found)[0]?.click(); };
form.onkeydown = event => {
	const links = [input, ...$("a", found)], step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
	if (event.key === "Escape") found.replaceChildren();
	if (!step) return;
	event.preventDefault();
	links[links.indexOf(document.activeElement) + step]?.focus();
};
addEventListener("click", event => { if (!form.contains(event.target)) found.replaceChildren(); });
addEventListener("keydown", event => {
	if (event.key !== "/" || event.ctrlKey || event.metaKey || /INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) return;
	event.preventDefault();
	input.focus();
});

// ---- Code: the commands of a terminal can be copied; what is wider than the page takes the focus

for (const pre of $(".console pre")) {
	const commands = $(".cmd", pre).map(line => line.textContent.replace(/^\$ /, "")).join("\n");
	if (!commands) continue;
	const button = here("button", { className: "copy", textContent: "copy", type: "button" });
	button.onclick = async () => {
		await navigator.clipboard.writeText(commands);
		button.textContent = "copied";
		setTimeout(() => { button.textContent = "copy"; }, 1500);
	};
	pre.previousElementSibling.append(button); // its label
}
for (const number of $("[data-file] i")) { // leads to the line in the file
	const href = number.closest("pre").dataset.file + "#" + (number.id || "L" + number.dataset.n);
	number.append(here("a", { href, tabIndex: -1, ariaHidden: true }));
}
const reachable = () => { for (const box of $("pre, .table, .diagram")) if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex"); };
addEventListener("resize", reachable);
reachable();

// ---- On this page

const [toc] = $(".toc"), wide = matchMedia("(min-width: 80rem)");
if (toc) {
	const open = () => { toc.open = wide.matches; };
	wide.addEventListener("change", open);
	open();
	const links = new Map($("a", toc).map(link => [link.hash.slice(1), link]));
	const watcher = new IntersectionObserver(entries => {
		for (const entry of entries) if (entry.isIntersecting) for (const [id, link] of links) link.classList.toggle("here", id === entry.target.id);
	}, { rootMargin: "-10% 0px -75% 0px" });
	for (const id of links.keys()) watcher.observe(document.getElementById(decodeURIComponent(id)));
}

// On paper, nothing is folded away.
addEventListener("beforeprint", () => { for (const box of $("article details:not(.diagram details)")) box.open = true; });

// ---- Without a network, the pages are read from a copy (sw.js); where there can be none, from the network

addEventListener("load", () => navigator.serviceWorker?.register(new URL("sw.js", root)).catch(() => { }));
