// Draws each chart in plotly's template for the reader's colour scheme when it comes near the screen.
"use strict";
(() => {
  const { figures, templates } = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const config = { displaylogo: false, responsive: true, displayModeBar: coarse ? false : "hover" };
  const drawn = new Map();

  function draw(plot) {
    const view = figures[plot.dataset.figure][drawn.get(plot)];
    const legend = plot.clientWidth < 640 ? { orientation: "h", y: -0.2, yanchor: "top", maxheight: 0.36 } : {};
    Plotly.react(plot, view.data, {
      ...view.layout,
      template: dark.matches ? templates.dark : templates.light,
      legend: { ...legend, uirevision: "of all views" }, // a hidden curve stays hidden
      uirevision: view.name,
      dragmode: coarse ? false : "zoom", // on a touch screen a finger scrolls the page
    }, config);
  }

  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !drawn.has(target)) {
        drawn.set(target, 0);
        draw(target);
      }
    }
  }, { rootMargin: "800px" });
  for (const plot of document.querySelectorAll(".plot")) {
    watch.observe(plot);
    document.querySelector(`select[data-for="${plot.dataset.figure}"]`)?.addEventListener("change", (event) => {
      drawn.set(plot, event.target.selectedIndex);
      draw(plot);
    });
  }
  dark.addEventListener("change", () => [...drawn.keys()].forEach(draw));
  addEventListener("beforeprint", () => {
    for (const plot of document.querySelectorAll(".plot")) {
      if (!drawn.has(plot)) drawn.set(plot, 0);
      draw(plot);
    }
  });
})();
