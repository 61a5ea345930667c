// Keeps the page up to date: a message of the stream is an array of elements of the
// page as HTML, each with an id, which the page's own are made equal to. What the
// reader has opened, focused, typed or selected stays.
"use strict";
(() => {
	const byId = (id) => document.getElementById(id);
	const key = (n) => n.nodeType === 1 ? n.dataset.key || n.id : "";

	// Set here, not by the server.
	const kept = (n, name) =>
		name === "open" || n.dataset.stack !== undefined && (name === "role" || name === "aria-expanded");

	// A task that ends while its stack is read stays until the stack is closed.
	const isRead = (n) => n.querySelector("tr.stack:not([hidden]):not(:has(details)), details[open]") !== null;

	function morph(from, to) {
		if (from.nodeType !== 1) {
			if (from.data !== to.data) from.data = to.data;
			return;
		}
		if (from.dataset.own !== undefined) return;
		for (const { name, value } of to.attributes)
			if (!kept(from, name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
		for (const { name } of [...from.attributes])
			if (!kept(from, name) && !to.hasAttribute(name)) from.removeAttribute(name);

		const there = new Map();
		const wanted = new Set([...to.children].map(key));
		for (const c of [...from.children]) {
			const k = key(c);
			if (!k) continue;
			if (wanted.has(k)) there.set(k, c);
			else if (isRead(c)) c.classList.add("gone");
			else c.remove(); // first, so that the others need not move
		}
		let at = from.firstChild;
		const skip = () => { while (at && at.nodeType === 1 && at.classList.contains("gone")) at = at.nextSibling; };
		for (const n of [...to.childNodes]) {
			skip();
			const k = key(n);
			const same = k ? there.get(k) : at && !key(at) && at.nodeName === n.nodeName ? at : null;
			if (!same) {
				from.insertBefore(n, at);
				continue;
			}
			if (same === at) at = at.nextSibling;
			else from.insertBefore(same, at);
			morph(same, n);
		}
		for (skip(); at; skip()) {
			const next = at.nextSibling;
			at.remove();
			at = next;
		}
	}

	function apply(parts) {
		const focused = document.activeElement;
		const section = focused && focused.closest("section");
		for (const html of parts) {
			const to = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
			const from = byId(to.id);
			if (!from) { // a pool has come
				location.reload();
				return;
			}
			morph(from, to);
		}
		const pools = new Set([...document.querySelectorAll("#pools li")].map((n) => "p" + n.dataset.key));
		for (const a of document.querySelectorAll("article")) if (!pools.has(a.id)) a.remove();
		enhance();
		if (focused && focused !== document.activeElement) { // it was moved, or is gone
			const next = focused.isConnected ? focused : section && section.querySelector("h3");
			if (next) next.focus({ preventScroll: true });
		}
		const problems = byId("pools").dataset.problems;
		document.title = (problems > 0 ? `(${problems}) ` : "") + title;
	}

	// Links to stacks open them in place.
	function enhance() {
		for (const a of document.querySelectorAll("a[data-stack]:not([role])")) {
			a.setAttribute("role", "button");
			a.setAttribute("aria-expanded", "false");
		}
	}

	async function load(url, into) {
		into.textContent = "…";
		try {
			const r = await fetch(url);
			into.textContent = await r.text();
		} catch {
			into.textContent = "It could not be loaded.";
		}
	}

	document.addEventListener("click", (e) => {
		const a = e.target.closest("a[data-stack]");
		if (!a || e.ctrlKey || e.metaKey || e.shiftKey) return;
		e.preventDefault();
		const body = a.closest("tbody");
		const row = body.querySelector("tr.stack");
		row.hidden = !row.hidden;
		a.setAttribute("aria-expanded", String(!row.hidden));
		if (!row.hidden) load(a.href, row.querySelector("pre"));
		else if (body.classList.contains("gone")) body.remove();
	});
	document.addEventListener("keydown", (e) => {
		if (e.key !== " " || !e.target.matches("a[data-stack]")) return;
		e.preventDefault();
		e.target.click();
	});
	document.addEventListener("toggle", (e) => {
		const pre = e.target.querySelector("pre");
		if (e.target.open && e.target.dataset.src && !pre.textContent) load(e.target.dataset.src, pre);
		const body = e.target.closest("tbody.gone");
		if (body && !e.target.open) body.remove();
	}, true);

	document.addEventListener("submit", async (e) => {
		if (e.target.getAttribute("action") !== "control") return;
		e.preventDefault();
		try {
			const body = new URLSearchParams(new FormData(e.target, e.submitter));
			const pool = e.target.closest("article").querySelector("h2").textContent;
			if (body.get("do") === "pause" && !confirm(`Pause ${pool}? No task starts until it is resumed.`)) return;
			if (body.get("do") === "resize" && !confirm(`Resize ${pool} to ${body.get("workers")} workers?`)) return;
			const r = await fetch("control", { method: "POST", body });
			say(await r.text(), !r.ok);
			if (r.ok) e.target.reset();
		} catch {
			say("The request did not get through.", true);
		}
	});
	let saying;
	function say(text, bad) {
		const said = byId("said");
		said.textContent = text;
		said.classList.toggle("bad", bad);
		clearTimeout(saying);
		saying = setTimeout(() => { said.textContent = ""; }, 8000);
	}

	// The connection. It is let go of while nobody can see the page.
	const title = document.title;
	const link = byId("link"), freeze = byId("freeze");
	let source, timer, silence, frozen = false;

	function show(state, text) {
		document.body.dataset.link = state;
		if (link.textContent !== text) link.textContent = text;
	}
	function disconnect() {
		clearTimeout(timer);
		clearTimeout(silence);
		if (source) source.close();
		source = null;
	}
	function lost(again) {
		disconnect();
		show("lost", "Connection lost, as of");
		timer = setTimeout(connect, again);
	}
	function connect() {
		disconnect();
		if (frozen || document.hidden) return;
		source = new EventSource("events");
		source.onmessage = (e) => {
			apply(JSON.parse(e.data));
			show("live", "Live");
			clearTimeout(silence);
			silence = setTimeout(lost, 5000, 0);
		};
		source.onerror = () => {
			if (source.readyState === EventSource.CLOSED) lost(5000); // refused: it would not try again
			else show("lost", "Connection lost, as of");
		};
	}
	freeze.hidden = false;
	freeze.addEventListener("click", () => {
		frozen = !frozen;
		freeze.setAttribute("aria-pressed", String(frozen));
		if (frozen) show("frozen", "Frozen, as of");
		connect();
	});
	document.addEventListener("visibilitychange", connect);
	addEventListener("pagehide", disconnect);
	addEventListener("pageshow", (e) => { if (e.persisted) connect(); });
	byId("refresh").hidden = true;
	enhance();
	connect();
})();
