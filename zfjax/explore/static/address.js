link => { history.replaceState(null, '', link ? `?${link}` : location.pathname); dispatchEvent(new Event('zx-view')); }
