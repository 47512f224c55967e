// Keeps the course readable without a network. .ci/site writes two constants before this line: files,
// which are stored at the first visit, and build, a hash of their contents; all else is stored when it
// is first asked for. The network comes first, so that nobody reads an old page while there is a new one.
const ours = registration.scope + " ", store = ours + build, patience = 3000; // ms

oninstall = event => event.waitUntil((async () => {
	await (await caches.open(store)).addAll(files.map(file => new Request(file, { cache: "no-cache" })));
	await skipWaiting();
})());

onactivate = event => event.waitUntil((async () => {
	for (const name of await caches.keys()) if (name.startsWith(ours) && name !== store) await caches.delete(name);
	await clients.claim();
})());

onfetch = event => {
	const { request } = event;
	if (request.method === "GET" && request.url.startsWith(registration.scope)) event.respondWith(answer(request));
};

// answer asks the network, and takes the stored copy if that fails or is too slow.
async function answer(request) {
	const kept = await caches.open(store), key = request.url.replace(/[?#].*/, "").replace(/\/$/, "/index.html");
	const own = await kept.match(key);
	const fresh = fetch(request).then(response => {
		if (response.status === 200) kept.put(key, response.clone()).catch(() => { }); // e.g. no room
		return response;
	});
	const late = new Promise((_, reject) => setTimeout(reject, patience));
	try {
		return await (own ? Promise.race([fresh, late]) : fresh);
	} catch {
		return own || (request.mode === "navigate" ? Response.redirect("offline.html") : Response.error());
	}
}
