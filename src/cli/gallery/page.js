// The slider between input and output.
document.addEventListener('input', (event) => {
  if (event.target.matches('.compare input')) event.target.closest('.compare').style.setProperty('--at', `${event.target.value}%`);
});

// The enlarged picture: a copy of the frame, slider included.
const dialog = document.getElementById('enlarged');
document.addEventListener('click', (event) => {
  const frame = event.target.closest('.frame');
  if (frame && !dialog.contains(frame) && (event.target.closest('.enlarge') || !frame.matches('.compare'))) {
    const copy = frame.cloneNode(true);
    const owner = frame.closest('figure') ?? frame;
    for (const name of ['--w', '--h']) copy.style.setProperty(name, owner.style.getPropertyValue(name));
    copy.querySelector('.enlarge').remove();
    dialog.querySelector('.stage').replaceChildren(copy);
    dialog.showModal();
  } else if (event.target === dialog || event.target.closest('.close') || event.target.closest('.stage > .frame:not(.compare)')) {
    dialog.close();
  }
});
