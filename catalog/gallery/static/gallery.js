// The arrow keys follow the links to what lies before and after; nothing else needs a script.
document.addEventListener("keydown", (event) => {
  const relation = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const typing = event.target.closest("input, select, textarea");
  if (!relation || typing || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const link = document.querySelector(`link[rel="${relation}"]`);
  if (link) location.assign(link.href);
});
