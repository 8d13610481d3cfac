link => { history.replaceState(null, '', link ? `?${link}` : location.pathname); }
