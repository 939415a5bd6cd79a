// Sets a figure that moves in motion: native controls choose a state, and its numbers are drawn where the still ones are.
(() => {
  const at = (a, b) => (value) => (value === null ? NaN : a + b * value);
  const short = (value) => +value.toFixed(1);
  // The same paths as in _moving.py, from numbers in pixels; `base` is where a bar starts.
  const paths = {
    line: (x, y) => {
      let pen = "M";
      return y.map((v, i) => {
        if (Number.isNaN(v)) return (pen = "M") && "";
        const piece = `${pen}${short(x[i])} ${short(v)}`;
        pen = "L";
        return piece;
      }).join("");
    },
    dots: (x, y) => y.map((v, i) => (Number.isNaN(v) ? "" : `M${short(x[i])} ${short(v)}h0`)).join(""),
    bars: (x, y, base) => y.map((v, i) => `M${short(x[i])} ${short(base)}V${short(v)}`).join(""),
    rows: (x, y, base) => x.map((v, i) => `M${short(base)} ${short(y[i])}H${short(v)}`).join(""),
  };

  const start = (figure) => {
    const { controls, marks, says } = JSON.parse(figure.dataset.moves);
    const inputs = [];
    const pick = ([strides, states]) => states[strides.reduce((k, s, i) => k + s * inputs[i]().value, 0)];

    const show = () => {
      inputs.forEach((input) => input().tell());
      marks.forEach(({ kind, x, y, values, scale }, i) => {
        const part = figure.querySelector(`[data-mark="${i}"]`);
        if (kind === "cells") {
          [...part.children].forEach((cell, k) => cell.setAttribute("fill-opacity", pick(values)[k]));
        } else if (kind === "words") {
          [...part.children].forEach((word, k) => {
            word.textContent = pick(values)[k];
            word.setAttribute("x", short(at(scale[0], scale[1])(pick(x)[k])));
            word.setAttribute("y", short(at(scale[2], scale[3])(pick(y)[k]) + 5));
          });
        } else {
          const place = [pick(x).map(at(scale[0], scale[1])), pick(y).map(at(scale[2], scale[3]))];
          part.setAttribute("d", paths[kind](...place, scale[4]));
        }
      });
      figure.querySelectorAll(".says output").forEach((output, i) => (output.textContent = pick(says[i])));
    };

    const make = (name, properties, ...children) => {
      const element = Object.assign(document.createElement(name), properties);
      element.append(...children);
      return element;
    };

    const play = (input, n) => {
      let clock = null;
      const button = make("button", { type: "button", textContent: "Play" });
      const stop = () => {
        clearInterval(clock);
        clock = null;
        button.textContent = "Play";
      };
      const step = () => {
        input.value = (+input.value + 1) % n;
        show();
        if (+input.value === n - 1) stop();
      };
      button.onclick = () => {
        if (clock) return stop();
        button.textContent = "Pause";
        clock = setInterval(step, 500);
        step();
      };
      input.addEventListener("input", stop);
      return button;
    };

    const box = figure.querySelector(".controls");
    for (const { name, values, start: first, how } of controls) {
      const row = make("div", { className: "control" });
      if (how === "select") {
        const select = make("select", {}, ...values.map((text) => make("option", { textContent: text })));
        select.selectedIndex = first;
        select.oninput = show;
        row.append(make("label", {}, make("span", { textContent: name }), select));
        inputs.push(() => ({ value: select.selectedIndex, tell: () => {} }));
      } else {
        const input = make("input", { type: "range", min: 0, max: values.length - 1, step: 1 });
        const output = make("output", {});
        input.value = first;
        const tell = () => {
          output.textContent = values[input.value];
          input.setAttribute("aria-valuetext", values[input.value]);
        };
        input.oninput = show;
        row.append(make("label", {}, make("span", { textContent: name }), input), output);
        if (how === "play") row.append(play(input, values.length));
        inputs.push(() => ({ value: +input.value, tell }));
        tell();
      }
      box.append(row);
    }
  };

  for (const figure of document.querySelectorAll("[data-moves]:not([data-ready])")) {
    figure.dataset.ready = "";
    start(figure);
  }
})();
