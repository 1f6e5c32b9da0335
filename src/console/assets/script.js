// The pages work without this. It follows a running action, and picks all rows at once.
"use strict";

const again = async () => {
  const shown = document.getElementById("progress");
  if (!shown || !shown.hasAttribute("data-running")) return;
  try {
    const answer = await fetch(location.href);
    if (!answer.ok) throw new Error();
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const next = page.getElementById("progress");
    shown.replaceChildren(...next.childNodes);
    if (!next.hasAttribute("data-running")) {
      shown.removeAttribute("data-running");
      document.getElementById("cancel")?.remove();
    }
  } catch { /* the console is away for a moment */ }
  setTimeout(again, 1000);
};
setTimeout(again, 1000);

const table = document.querySelector("table.letters");
if (table) {
  const boxes = table.querySelectorAll("tbody input[type=checkbox]");
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Pick all of this page");
  all.addEventListener("change", () => boxes.forEach((box) => { box.checked = all.checked; }));
  table.querySelector("thead th").append(all);
}
