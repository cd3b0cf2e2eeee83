"use strict";
(function () {
  // Tables: a click on a head sorts by it, numbers as numbers, what is absent last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const isUp = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const isNumber = head.classList.contains("number");
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNumber ? Number(x) - Number(y) : x.localeCompare(y);
        return isUp ? order : -order;
      });
      table.tBodies[0].append(...rows);
    }));
  }

  // Figures: the library draws them in the page's colour of text; if it cannot, the picture stays.
  const source = document.getElementById("items").textContent;
  function draw() {
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    const items = JSON.parse(source.replaceAll("#1b1c1d", ink));
    for (const [number, panels] of Object.entries(items)) {
      const figure = document.getElementById("figure-" + number);
      figure.classList.add("drawn");
      panels.forEach((item, place) => {
        const id = "live-" + (place + 1) + "-of-" + number;
        document.getElementById(id).replaceChildren();
        Bokeh.embed.embed_item(item, id).catch(() => figure.classList.remove("drawn"));
      });
    }
  }
  if (window.Bokeh) {
    draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }
})();
