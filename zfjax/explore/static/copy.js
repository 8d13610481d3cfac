element.addEventListener('click', async event => {
  const button = event.target.closest('[data-copy]');
  if (!button) return;
  const address = new URL(location.href);
  address.searchParams.delete('token');
  try {
    await navigator.clipboard.writeText(address.href);
    button.textContent = 'Copied';
  } catch (error) {
    button.textContent = 'The address bar has it';
  }
});
