// Draws the figures of the page, in the colours of the scheme that the reader has, and lets legends and views choose.
"use strict";
(() => {
  const scopes = JSON.parse(document.getElementById("figures").textContent);
  const coarse = matchMedia("(pointer: coarse)").matches;
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  // "var(--x)" and "ramp(t)", t from 0 to 1, mean colours of the present scheme.
  function color(text) {
    if (text.startsWith("var(")) return variable(text.slice(4, -1));
    const [low, high] = [channels(variable("--ramp-low")), channels(variable("--ramp-high"))];
    const share = parseFloat(text.slice(5));
    return `rgb(${low.map((from, i) => Math.round(from + share * (high[i] - from))).join(",")})`;
  }

  function trace(given, hidden) {
    const drawn = { ...given, visible: !hidden.has(given.meta), line: { ...given.line, color: color(given.line.color) } };
    if (given.marker) {
      const own = drawn.line.color;
      drawn.marker = { ...given.marker, color: own, line: { ...given.marker.line, color: own } };
    }
    return drawn;
  }

  function layout(given) {
    const [ink, soft, line, grid, paper, raised] =
      ["--ink", "--soft", "--line", "--grid", "--paper", "--raised"].map(variable);
    const axis = { gridcolor: grid, linecolor: line, zeroline: false, ticks: "outside", tickcolor: line, automargin: true };
    const titled = (own) => (own.title ? { ...own, title: { standoff: 10, font: { size: 13 }, ...own.title } } : own);
    return {
      ...given,
      autosize: true,
      showlegend: false,
      dragmode: coarse ? false : "zoom", // on a touch screen a finger scrolls the page
      hovermode: "closest",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: soft },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 12, r: 12, t: 14, b: 12 },
      hoverlabel: { bgcolor: raised, bordercolor: line, font: { color: ink, size: 13 }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
      xaxis: { ...axis, ...titled(given.xaxis) },
      yaxis: { ...axis, ...titled(given.yaxis) },
    };
  }

  const config = {
    displaylogo: false,
    responsive: true,
    displayModeBar: coarse ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  const redraws = [];
  for (const element of document.querySelectorAll(".scope")) {
    const scope = scopes[element.dataset.scope];
    const plots = [...element.querySelectorAll(".plot")];
    const hidden = new Set(scope.legend.filter((entry) => !entry.shown).map((entry) => entry.key));
    let view = 0;
    const draw = (index) => {
      const { data, layout: given } = scope.figures[index].views[view];
      return Plotly.react(plots[index], data.map((one) => trace(one, hidden)), layout(given), config);
    };
    // A plot is drawn when it comes near the screen: of a long page most are far away.
    const near = new Set();
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const index = plots.indexOf(entry.target);
        if (entry.isIntersecting && !near.has(index)) {
          near.add(index);
          draw(index);
        }
      }
    }, { rootMargin: "800px" });
    plots.forEach((plot) => watch.observe(plot));
    const redraw = () => near.forEach(draw);
    redraws.push(redraw);
    addEventListener("beforeprint", () => plots.forEach((_, index) => { near.add(index); draw(index); }));

    for (const button of element.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        const shown = hidden.delete(button.dataset.key);
        if (!shown) hidden.add(button.dataset.key);
        button.setAttribute("aria-pressed", shown);
        redraw();
      });
    }
    const choose = (index) => {
      view = index;
      element.querySelectorAll(".segments button").forEach((one, i) => one.setAttribute("aria-pressed", i === index));
      redraw();
    };
    element.querySelectorAll(".segments button").forEach((one, i) => one.addEventListener("click", () => choose(i)));
    element.querySelector("select")?.addEventListener("change", (event) => choose(event.target.selectedIndex));
  }
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => redraws.forEach((redraw) => redraw()));
})();
