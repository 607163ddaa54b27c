// Runs before the first paint, so that the page does not flash: a chosen theme wins over the system's.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  const shown = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => {
      button.textContent = shown() === "dark" ? "Light" : "Dark";
      button.title = `Show the page in ${button.textContent.toLowerCase()} colours`;
    };
    button.addEventListener("click", () => {
      root.dataset.theme = shown() === "dark" ? "light" : "dark";
      localStorage.setItem("theme", root.dataset.theme);
      label();
    });
    dark.addEventListener("change", label);
    label();
  });
})();
