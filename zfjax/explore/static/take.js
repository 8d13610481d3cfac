// How a picture comes in: a file, a drop anywhere on the page, one that is pasted, or the camera.
const note = text => { const line = element.querySelector('.zx-note'); line.textContent = text; };
const send = async (blob, name) => {
  note('reading the picture …');
  try {
    const answer = await fetch(`picture?name=${encodeURIComponent(name)}`, { method: 'POST', body: blob });
    const found = await answer.json();
    note(found.error ?? '');
    if (found.picture) trigger('select', { picture: found.picture });
  } catch (error) {
    note('the picture could not be sent: is zfjax explore still running?');
  }
};
const first = list => [...(list ?? [])].find(file => file instanceof File);
const input = element.querySelector('input[type=file]');
input.addEventListener('change', () => { const file = first(input.files); if (file) send(file, file.name); input.value = ''; });
const isFile = event => [...(event.dataTransfer?.types ?? [])].includes('Files');
document.addEventListener('dragover', event => { if (isFile(event)) event.preventDefault(); });
document.addEventListener('drop', event => {
  if (!isFile(event)) return;
  event.preventDefault();
  const file = first(event.dataTransfer.files);
  if (file) send(file, file.name);
});
document.addEventListener('paste', event => { const file = first(event.clipboardData?.files); if (file) send(file, file.name || 'pasted'); });

const dialog = element.querySelector('dialog'), video = element.querySelector('video');
const stop = () => { for (const track of video.srcObject?.getTracks() ?? []) track.stop(); video.srcObject = null; };
element.querySelector('[data-camera]').addEventListener('click', async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
    dialog.showModal();
    await video.play();
  } catch (error) {
    note('there is no camera here that the browser may use');
  }
});
element.querySelector('[data-shoot]').addEventListener('click', () => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext('2d').drawImage(video, 0, 0);
  canvas.toBlob(blob => blob && send(blob, 'camera'), 'image/png');
  dialog.close();
});
element.querySelector('[data-cancel]').addEventListener('click', () => dialog.close());
dialog.addEventListener('close', stop);
