// Keeps the page up to date: a message of the stream is an array of elements of the
// page as HTML, each with an id, which the page's own are made equal to. What the
// reader has opened, focused, typed or selected stays.
"use strict";
(() => {
	const byId = (id) => document.getElementById(id);
	const key = (n) => n.nodeType === 1 ? n.dataset.key || n.id : "";

	// Set here, not by the server.
	const kept = (n, name) =>
		name === "open" || name === "style" || n.dataset.stack !== undefined && (name === "role" || name === "aria-expanded");

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

	// A list that the pointer or the focus is in stands still, so that nobody hits what has
	// just moved there: what is new waits here, by the id of its section. What somebody did
	// is shown at once.
	const waiting = new Map();
	let atOnce = 0;
	const rows = ":is(.tasks, .sortable) tbody";
	const pointed = matchMedia("(hover: hover)");
	const isHeld = (n) => Date.now() > atOnce && n.matches("section.card") &&
		n.querySelector(`${rows}:focus-within` + (pointed.matches ? `, ${rows}:hover` : "")) !== null;

	function release() {
		for (const [id, to] of waiting) {
			const from = byId(id);
			if (from && isHeld(from)) continue;
			waiting.delete(id);
			if (from) keepFocus(() => put(from, to));
		}
	}
	for (const name of ["mouseover", "focusin", "focusout"])
		document.addEventListener(name, () => { if (waiting.size) setTimeout(release); });
	document.documentElement.addEventListener("mouseleave", () => setTimeout(release));

	function put(from, to) {
		enhance(to);
		sort(to, sorted.get(to.id));
		find(to);
		morph(from, to);
		if (from.matches(".running")) reserve(from);
	}

	// What runs changes all the time: what is below should not jump, so the list keeps for a
	// while the height that it had.
	const tall = new Map();
	function reserve(section) {
		section.style.minHeight = "";
		const high = section.offsetHeight, before = tall.get(section.id), now = Date.now();
		if (!before || high >= before.high || now > before.until || innerWidth !== before.width)
			tall.set(section.id, { high, until: now + 30000, width: innerWidth });
		else section.style.minHeight = before.high + "px";
	}

	// If what has the focus goes, what is like it in the next row gets it, or else the heading.
	function keepFocus(change) {
		const focused = document.activeElement;
		const row = focused && focused.closest("tbody[data-key], tr[data-key], li[data-key]");
		const section = focused && focused.closest("section");
		const near = [];
		for (let n = row && row.nextElementSibling; n; n = n.nextElementSibling) near.push(n);
		for (let n = row && row.previousElementSibling; n; n = n.previousElementSibling) near.push(n);
		change();
		if (!focused || focused === document.activeElement) return;
		let next = focused;
		if (!focused.isConnected) {
			const like = focused.dataset.stack !== undefined ? "a[data-stack]" : focused.localName + (focused.name ? `[name="${focused.name}"]` : "") + (focused.value && focused.localName === "button" ? `[value="${focused.value}"]` : "");
			const other = near.find((n) => n.isConnected && n.querySelector(like));
			next = other ? other.querySelector(like) : section && section.querySelector("h3");
		}
		if (next) next.focus({ preventScroll: true });
	}

	function apply(parts) {
		for (const html of parts) {
			const to = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
			const from = byId(to.id);
			if (!from) { // a pool has come
				sessionStorage.setItem("taskpool-open", JSON.stringify(folds().filter((f) => f.open).map((f) => f.parentElement.id)));
				location.reload();
				return;
			}
			if (isHeld(from)) {
				waiting.set(to.id, to);
				from.dataset.held = "";
				continue;
			}
			waiting.delete(to.id);
			keepFocus(() => put(from, to));
		}
		const pools = new Set([...document.querySelectorAll("#pools [data-key]")].map((n) => "p" + n.dataset.key));
		for (const a of document.querySelectorAll("article")) if (!pools.has(a.id)) a.remove();
		const problems = byId("pools").dataset.problems;
		document.title = (problems > 0 ? `(${problems}) ` : "") + title;
	}

	const folds = () => [...document.querySelectorAll("details.fold")];
	const open = JSON.parse(sessionStorage.getItem("taskpool-open") || "[]");
	sessionStorage.removeItem("taskpool-open");
	for (const f of folds()) if (open.includes(f.parentElement.id)) f.open = true;
	document.addEventListener("click", (e) => {
		const a = e.target.closest("#pools a");
		if (a) document.querySelector(a.hash + " .fold").open = true;
	});

	// Tables are sorted here: by section the column, and whether the largest is first.
	const sorted = new Map();
	function sort(section, by) {
		const table = section.querySelector("table.sortable");
		if (!table || !by) return;
		const body = table.tBodies[0];
		const value = (tr) => {
			const cell = tr.cells[by.column];
			return by.text ? cell.textContent : +(cell.dataset.n || 0);
		};
		const compare = (a, b) => by.text ? value(a).localeCompare(value(b)) : value(a) - value(b);
		const all = [...body.rows].sort((a, b) =>
			(a.dataset.key === "other") - (b.dataset.key === "other") || (by.down ? compare(b, a) : compare(a, b)));
		body.append(...all);
		for (const th of table.tHead.rows[0].cells) {
			if (th.cellIndex === by.column) th.ariaSort = by.down ? "descending" : "ascending";
			else th.removeAttribute("aria-sort");
		}
	}
	document.addEventListener("click", (e) => {
		const button = e.target.closest("button.sort");
		if (!button) return;
		const th = button.parentElement, section = th.closest("section"), before = sorted.get(section.id);
		const text = th.dataset.sort === "text";
		const down = before && before.column === th.cellIndex ? !before.down : !text;
		sorted.set(section.id, { column: th.cellIndex, text, down });
		sort(section, sorted.get(section.id));
	});

	// Rows that do not have what is searched for are hidden.
	const findBox = byId("find");
	function find(root) {
		const want = findBox.value.trim().toLowerCase();
		for (const n of root.querySelectorAll(".tasks > tbody[data-key], .sortable tr[data-key]"))
			n.hidden = want !== "" && !n.textContent.toLowerCase().includes(want);
	}
	findBox.addEventListener("input", () => {
		if (findBox.value) for (const f of folds()) f.open = true;
		find(document);
	});
	findBox.parentElement.hidden = false;

	// Times are the viewer's.
	const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
	const day = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short" }); // 2006-01-02
	const zone = new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" });
	const zoneOf = (at) => zone.formatToParts(at).find((p) => p.type === "timeZoneName").value;
	function localize(n) {
		const at = new Date(n.dateTime);
		const today = day.format(at) === day.format(new Date());
		n.textContent = (today ? "" : day.format(at) + " ") + clock.format(at) + (n.id === "at" ? " " + zoneOf(at) : "");
		n.title = `${day.format(at)} ${clock.format(at)} ${zoneOf(at)}`;
	}

	// What works with a script only. Links to stacks open them in place.
	function enhance(root) {
		for (const a of root.querySelectorAll("a[data-stack]:not([role])")) {
			a.setAttribute("role", "button");
			a.setAttribute("aria-expanded", "false");
		}
		for (const th of root.querySelectorAll("th[data-sort]:not(:has(button))")) {
			const button = document.createElement("button");
			button.type = "button";
			button.className = "sort";
			button.append(...th.childNodes);
			th.append(button);
		}
		for (const n of root.querySelectorAll("time")) localize(n);
		if (root.localName === "time") localize(root);
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
			const isolated = (name) => "\u2068" + name + "\u2069"; // whichever way it is written, as <bdi>
			const pool = isolated(e.target.closest("article").querySelector("h2").textContent);
			if (body.get("do") === "pause" && !confirm(`Pause ${pool}? No task starts until it is resumed.`)) return;
			if (body.get("do") === "cancel-all" && !confirm(`Cancel all tasks of ${pool} that are named ${isolated(body.get("name"))}, also those that run?`)) return;
			if (body.get("do") === "resize" && !confirm(`Resize ${pool} to ${body.get("workers")} workers?`)) return;
			const r = await fetch("control", { method: "POST", body });
			say(await r.text(), !r.ok);
			if (r.ok) {
				e.target.reset();
				atOnce = Date.now() + 1500;
				release();
			}
		} catch {
			say("The request did not get through.", true);
		}
	});
	let saying;
	function say(text, bad) {
		const said = byId("said");
		said.textContent = text;
		said.classList.toggle("bad", Boolean(bad));
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
	const copy = byId("copy");
	copy.hidden = false;
	copy.addEventListener("click", async () => {
		try {
			const r = await fetch("snapshot.json");
			if (!r.ok) throw new Error(await r.text());
			await navigator.clipboard.writeText(await r.text());
			say("Copied the snapshot as JSON.");
		} catch {
			say("The snapshot could not be copied; it is at snapshot.json.", true);
		}
	});
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
	enhance(document);
	connect();
})();
