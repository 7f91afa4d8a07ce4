// Theme, menus, and the loader of chart data. Runs in the head, so that the theme is there before the first paint.
"use strict";
const timetrial = (() => {
  const data = {}, waiting = {};
  const root = document.documentElement;

  // Pages that are opened from disk may have no storage; then the choice holds for this page.
  const remembered = () => { try { return localStorage.getItem("timetrial-theme"); } catch { return null; } };
  const remember = theme => { try { localStorage.setItem("timetrial-theme", theme); } catch { /* see above */ } };
  const preferred = () => matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = remembered() || preferred();

  function receive(name, text) { data[name] = JSON.parse(text); }

  // One script per piece of data; resolves with the data. Loading the same piece again is free.
  function load(name) {
    if (name in data) return Promise.resolve(data[name]);
    waiting[name] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${document.body.dataset.up}data/${name}.js`;
      script.onload = () => resolve(data[name]);
      script.onerror = () => reject(new Error(`${script.src} cannot be read`));
      document.head.append(script);
    });
    return waiting[name];
  }

  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
      remember(root.dataset.theme);
      dispatchEvent(new Event("theme"));
    });
    const menus = [...document.querySelectorAll("details")];
    addEventListener("click", event => menus.forEach(menu => { if (!menu.contains(event.target)) menu.open = false; }));
    addEventListener("keydown", event => {
      if (event.key !== "Escape") return;
      menus.filter(menu => menu.open).forEach(menu => { menu.open = false; menu.querySelector("summary").focus(); });
    });
  });
  return { data, receive, load };
})();
