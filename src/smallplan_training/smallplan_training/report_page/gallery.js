"use strict";
/* Episodes to step through: the plan, what the model read, what it answered. All text goes in as text, never as HTML. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.episodes.length) return;
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = 0.6, PLAY_MS = 1100;
  const keyOf = (e) => [e.scene, e.seed, e.target].join("\u0000");
  const groups = new Map();
  for (const e of data.episodes) {
    if (!groups.has(keyOf(e))) groups.set(keyOf(e), []);
    groups.get(keyOf(e)).push(e);
  }
  const state = { group: [...groups.values()][0], episode: null, step: 0, timer: 0 };

  const node = (tag, attributes, text) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const shape = (parent, tag, attributes, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return parent.appendChild(made);
  };
  const words = (name) => name.replace(/([a-z])([A-Z])/g, "$1 $2").replace(/_/g, " ").toLowerCase();
  const points = (list) => list.map((p) => p[0] + "," + -p[1]).join(" ");

  /* A thing's name and state before a decision; null while it is not known. */
  const at = (thing, step) => {
    let now = null;
    for (const span of thing.spans) if (span[0] <= step) now = span;
    return now && now[1] !== null ? { name: now[1], state: now[2] } : null;
  };

  const frame = (house) => {
    const xs = [], ys = [];
    for (const room of house.rooms) for (const [x, y] of room.polygon) { xs.push(x); ys.push(y); }
    const left = Math.min(...xs) - MARGIN, right = Math.max(...xs) + MARGIN;
    const low = Math.min(...ys) - MARGIN, high = Math.max(...ys) + MARGIN;
    return { left, low, width: right - left, height: high - low, top: -high };
  };

  /* Cells that were first known at a step, as an array; -1 = never. */
  const firstSeen = (seen) => {
    const cells = new Int16Array(seen.rows * seen.columns);
    let index = 0;
    for (const [value, count] of seen.runs) { cells.fill(value, index, index + count); index += count; }
    return cells;
  };

  const fogImage = (episode, step) => {
    const seen = episode.seen;
    episode.cells = episode.cells || firstSeen(seen);
    const canvas = document.createElement("canvas");
    canvas.width = seen.columns; canvas.height = seen.rows;
    const context = canvas.getContext("2d"), image = context.createImageData(seen.columns, seen.rows);
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--fog").trim();
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    for (let row = 0; row < seen.rows; row++) {
      for (let column = 0; column < seen.columns; column++) {
        const since = episode.cells[row * seen.columns + column];
        const pixel = 4 * ((seen.rows - 1 - row) * seen.columns + column);
        image.data.set([r, g, b, since >= 0 && since <= step ? 0 : since === step + 1 ? 75 : 185], pixel);
      }
    }
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
  };

  const middle = (corners) => [0, 1].map((i) => corners.reduce((sum, c) => sum + c[i], 0) / corners.length);

  const draw = () => {
    const episode = state.episode, step = state.step, decision = episode.steps[step];
    const house = data.houses[episode.house], box = frame(house), seen = episode.seen;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", [box.left, box.top, box.width, box.height].join(" "));
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Plan of ${house.name}, step ${step + 1} of ${episode.steps.length}`);
    const clip = shape(shape(svg, "defs"), "clipPath", { id: "inside" });
    for (const room of house.rooms) {
      shape(svg, "polygon", { class: "floor", points: points(room.polygon) });
      shape(clip, "polygon", { points: points(room.polygon) });
    }
    const things = episode.things.map((thing) => ({ ...thing, now: at(thing, step) })).filter((thing) => thing.now);
    const objects = things.filter((thing) => thing.kind === "object"), taken = new Set();
    const pieces = house.furniture.map((piece) => {
      const [x, y] = middle(piece.corners);
      const thing = objects.find((o) => Math.hypot(o.at[0] - x, o.at[1] - y) < 0.12 && words(o.now.name).startsWith(words(piece.label)));
      if (thing) taken.add(thing);
      return [piece, thing];
    });
    const drawPiece = ([piece, thing]) => {
      const look = !thing ? "unknown" : thing.now.state === "closed" ? "closed" : thing.now.state === "open" ? "open" : "";
      const drawn = shape(svg, "polygon", { class: `furniture ${look}`, points: points(piece.corners) });
      shape(drawn, "title", {}, thing ? `${thing.now.name}${thing.now.state ? ", " + thing.now.state : ""}` : `${words(piece.label)}, not seen yet`);
      if (!thing && piece.openable) drawn.classList.add("closed");
    };
    pieces.filter(([, thing]) => !thing).forEach(drawPiece);
    const cell = seen.cell;
    const fog = shape(svg, "image", {
      href: fogImage(episode, step), x: seen.corner[0], y: -(seen.corner[1] + seen.rows * cell),
      width: seen.columns * cell, height: seen.rows * cell, preserveAspectRatio: "none", "clip-path": "url(#inside)",
    });
    fog.setAttribute("aria-hidden", "true");
    pieces.filter(([, thing]) => thing).forEach(drawPiece);
    for (const [x0, y0, x1, y1] of house.walls) shape(svg, "line", { class: "wall", x1: x0, y1: -y0, x2: x1, y2: -y1 });
    for (const door of house.doors) drawDoor(svg, door, things);
    drawPaths(svg, episode, step);
    for (const thing of things) if (thing.kind === "frontier") {
      const mark = shape(svg, "circle", { class: "frontier-mark", cx: thing.at[0], cy: -thing.at[1], r: 0.16 });
      shape(mark, "title", {}, thing.now.state === "leads out" ? "unexplored space, leads out of the room" : "unexplored space within the room");
    }
    for (const thing of objects) if (!taken.has(thing)) {
      const mark = shape(svg, "circle", { class: "thing", cx: thing.at[0], cy: -thing.at[1], r: 0.07 });
      shape(mark, "title", {}, thing.now.name + (thing.now.state ? `, ${thing.now.state}` : ""));
    }
    drawTargets(svg, episode, house, step);
    drawNames(svg, house, things, decision, box.width);
    drawRobot(svg, decision.robot);
    const [x, y] = [box.left + box.width - 0.4, box.top + box.height - 0.28];
    shape(svg, "line", { class: "scale", x1: x - 2, y1: y, x2: x, y2: y });
    shape(svg, "text", { class: "scale-name", x: x - 2.12, y: y }, "2 m");
    byId("plan").replaceChildren(svg);
  };

  const drawDoor = (svg, door, things) => {
    shape(svg, "line", { class: "gap", x1: door.a[0], y1: -door.a[1], x2: door.b[0], y2: -door.b[1] });
    if (door.passage) return;
    const [x, y] = middle([door.a, door.b]);
    const known = things.find((t) => t.kind === "door" && Math.hypot(t.at[0] - x, t.at[1] - y) < 0.4);
    const open = known ? known.now.state === "open" : door.open;
    const end = open ? [door.a[0] - (door.b[1] - door.a[1]), door.a[1] + (door.b[0] - door.a[0])] : door.b;
    const look = `leaf ${door.openable ? "" : "locked"} ${known ? "" : "unknown"}`;
    const leaf = shape(svg, "line", { class: look, x1: door.a[0], y1: -door.a[1], x2: end[0], y2: -end[1] });
    shape(leaf, "title", {}, known ? `${known.now.name}, ${known.now.state}` : "door, not seen yet");
  };

  const drawPaths = (svg, episode, step) => {
    const before = [episode.start];
    for (const past of episode.steps.slice(0, step)) before.push(...past.path);
    shape(svg, "circle", { class: "start", cx: episode.start[0], cy: -episode.start[1], r: 0.14 });
    if (before.length > 1) shape(svg, "polyline", { class: "way-so-far", points: points(before) });
    const now = episode.steps[step].path;
    if (now.length) shape(svg, "polyline", { class: "this-way", points: points([before[before.length - 1], ...now]) });
  };

  const drawTargets = (svg, episode, house, step) => {
    const here = episode.things.filter((thing) => thing.kind === "object").map((thing) => ({ ...thing, now: at(thing, step) }));
    for (const target of house.targets) {
      const found = here.some((t) => t.now && Math.hypot(t.at[0] - target.at[0], t.at[1] - target.at[1]) < 0.1);
      const star = [];
      for (let i = 0; i < 10; i++) {
        const radius = i % 2 ? 0.14 : 0.34, angle = (i * Math.PI) / 5;
        star.push([target.at[0] + radius * Math.sin(angle), target.at[1] + radius * Math.cos(angle)]);
      }
      const mark = shape(svg, "polygon", { class: `target-mark ${found ? "" : "hidden"}`, points: points(star) });
      const where = target.where ? ` ${target.where}` : "";
      shape(mark, "title", {}, `${words(target.label)}${where}, ${found ? "found" : "not found yet"}`);
    }
  };

  const drawNames = (svg, house, things, decision, width) => {
    const size = Math.max(0.3, Math.min(0.5, width / 34));
    const taken = []; // names that are written already: none is written over another
    const write = (look, [x, y], text, height) => {
      const half = (text.length * height * 0.58) / 2;
      const box = [x - half, y - height, x + half, y];
      if (taken.some((b) => b[0] < box[2] && box[0] < b[2] && b[1] < box[3] && box[1] < b[3])) return;
      taken.push(box);
      shape(svg, "text", { class: look, x, y, style: `font-size:${height}px` }, text);
    };
    for (const room of house.rooms) {
      const [x, y] = middle(room.polygon);
      const known = things.find((t) => t.kind === "room" && inside(t.at, room.polygon));
      const name = known ? known.now.name : words(room.type);
      write(`room-name halo ${known ? "" : "unknown"}`, [x, -y], name, size);
    }
    const chosen = (/\(([^()]*)\)/.exec(decision.command) || ["", ""])[1].split(",").pop().trim();
    const named = things.filter((thing) => thing.kind === "object" || thing.kind === "door");
    const isChosen = (thing) => chosen !== "" && thing.now.name === chosen;
    for (const thing of named.filter(isChosen)) {
      shape(svg, "circle", { class: "chosen", cx: thing.at[0], cy: -thing.at[1], r: 0.34 });
      write("thing-name halo", [thing.at[0], -thing.at[1] - 0.42], thing.now.name, size * 0.8);
    }
    if (!byId("names").checked) return;
    for (const thing of named) if (!isChosen(thing)) write("thing-name halo", [thing.at[0], -thing.at[1] - 0.12], thing.now.name, size * 0.55);
  };

  const inside = ([x, y], polygon) => {
    let is = false;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
      const [[xi, yi], [xj, yj]] = [polygon[i], polygon[j]];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) is = !is;
    }
    return is;
  };

  const drawRobot = (svg, [x, y, yaw]) => {
    const group = shape(svg, "g", { transform: `translate(${x} ${-y}) rotate(${(-yaw * 180) / Math.PI})` });
    shape(group, "circle", { class: "robot", r: 0.22 });
    shape(group, "polygon", { class: "heading", points: "0.16,0 -0.05,0.11 -0.05,-0.11" });
    shape(group, "title", {}, "the robot");
  };

  const OUTCOMES = { executed: "executed", failed: "failed", refused: "refused", unparsable: "can't be read", done: "ends the search" };

  const tell = () => {
    const episode = state.episode, step = state.step, decision = episode.steps[step], box = byId("decision");
    const said = node("p", { class: "said" });
    said.append(node("code", {}, decision.command || "no command"));
    const outcome = node("p");
    outcome.append(node("span", { class: `chip ${decision.outcome}` }, OUTCOMES[decision.outcome] || decision.outcome), decision.text);
    const list = node("dl");
    const entries = [["Analysis", decision.analysis], ["Reasoning", decision.reasoning]];
    entries.push(["Way", `${decision.dist_m.toFixed(1)} m so far, ${decision.low_level_steps} low-level steps`]);
    entries.push(["Decided in", `${decision.ms.toFixed(0)} ms`]);
    for (const [name, text] of entries) if (text) list.append(node("dt", {}, name), node("dd", {}, text));
    box.replaceChildren(node("h3", {}, `Step ${step + 1} of ${episode.steps.length}`), said, outcome, list);
    if (decision.picture) box.append(node("img", { class: "picture", src: decision.picture, alt: "what the robot's camera showed before" }));
    if (step === episode.steps.length - 1) {
      const end = node("p");
      end.append(node("span", { class: `chip ${episode.result.success ? "executed" : "unparsable"}` }, episode.result.success ? "found" : "not found"), episode.result.message);
      box.append(end);
    }
    byId("user").textContent = decision.user;
    byId("system").textContent = decision.system;
    byId("slider").value = step;
    byId("slider").setAttribute("aria-valuetext", `step ${step + 1} of ${episode.steps.length}: ${decision.command}`);
    byId("first").disabled = byId("back").disabled = step === 0;
    byId("last").disabled = byId("next").disabled = step === episode.steps.length - 1;
    const list2 = byId("steps");
    [...list2.querySelectorAll("button")].forEach((button, number) => {
      if (number === step) {
        button.setAttribute("aria-current", "step");
        const top = button.offsetTop - list2.offsetTop;
        if (top < list2.scrollTop || top + button.offsetHeight > list2.scrollTop + list2.clientHeight) list2.scrollTop = top - 40;
      } else button.removeAttribute("aria-current");
    });
  };

  const go = (step) => {
    const last = state.episode.steps.length - 1;
    state.step = Math.max(0, Math.min(last, step));
    if (state.step === last) pause();
    draw();
    tell();
  };

  const show = (episode) => {
    pause();
    state.episode = episode;
    const result = episode.result;
    byId("policy").value = state.group.indexOf(episode);
    byId("summary").textContent =
      `${episode.policy} searches ${episode.scene} for “${episode.target}”: ${result.success ? "found" : "not found"} after ` +
      `${result.steps} actions and ${result.dist_m.toFixed(1)} m; the shortest way is ${episode.shortest_m.toFixed(1)} m.`;
    byId("slider").max = episode.steps.length - 1;
    byId("steps").replaceChildren(...episode.steps.map((decision, number) => {
      const button = node("button", { type: "button" });
      button.append(node("span", { class: "n" }, number + 1), node("span", { class: "c" }, decision.command || "no command"));
      if (decision.outcome !== "executed") button.append(node("span", { class: `o ${decision.outcome}` }, OUTCOMES[decision.outcome]));
      button.addEventListener("click", () => go(number));
      const item = node("li");
      item.append(button);
      return item;
    }));
    go(0);
  };

  const choose = (group, policy) => {
    state.group = group;
    const same = group.find((e) => e.policy === policy) || group[0];
    byId("episode").value = [...groups.values()].indexOf(group);
    byId("policy").replaceChildren(...group.map((e, number) => node("option", { value: number }, `${e.policy}${e.result.success ? "" : " (not found)"}`)));
    show(same);
  };

  const pause = () => {
    clearInterval(state.timer);
    state.timer = 0;
    byId("play").classList.remove("playing");
    byId("play").setAttribute("aria-label", "Play");
  };

  const play = () => {
    if (state.timer) return pause();
    if (state.step === state.episode.steps.length - 1) go(0);
    if (state.episode.steps.length === 1) return;
    state.timer = setInterval(() => go(state.step + 1), PLAY_MS);
    byId("play").classList.add("playing");
    byId("play").setAttribute("aria-label", "Pause");
  };

  const all = [...groups.values()];
  const label = (e) => {
    const alike = all.filter(([other]) => other.scene === e.scene && other.target === e.target).length > 1;
    return `${e.scene}: ${e.target}${alike ? ` (seed ${e.seed})` : ""}`;
  };
  byId("episode").replaceChildren(...all.map((group, number) => node("option", { value: number }, label(group[0]))));
  byId("episode").addEventListener("change", (event) => choose(all[event.target.value], state.episode.policy));
  byId("policy").addEventListener("change", (event) => show(state.group[event.target.value]));
  byId("names").addEventListener("change", draw);
  byId("slider").addEventListener("input", (event) => { pause(); go(Number(event.target.value)); });
  byId("play").addEventListener("click", play);
  const moves = { first: () => 0, back: () => state.step - 1, next: () => state.step + 1, last: () => state.episode.steps.length - 1 };
  for (const [id, target] of Object.entries(moves)) byId(id).addEventListener("click", () => { pause(); go(target()); });
  const keys = { ArrowLeft: moves.back, ArrowRight: moves.next, Home: moves.first, End: moves.last };
  const gallery = document.querySelector(".gallery");
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, input, pre, .scroll")) return;
    const bounds = gallery.getBoundingClientRect();
    if (!gallery.contains(event.target) && (bounds.top > innerHeight * 0.7 || bounds.bottom < innerHeight * 0.2)) return;
    const isButton = event.target.closest("button, summary, a");
    if (keys[event.key]) { pause(); go(keys[event.key]()); }
    else if (!gallery.contains(event.target)) return; // single letters belong to the gallery alone while it has the focus
    else if (event.key === " " && !isButton) play();
    else if (event.key.toLowerCase() === "p") show(state.group[(state.group.indexOf(state.episode) + 1) % state.group.length]);
    else if (event.key.toLowerCase() === "e") choose(all[(all.indexOf(state.group) + 1) % all.length], state.episode.policy);
    else return;
    event.preventDefault();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  choose(all[0], all[0][0].policy);
})();
