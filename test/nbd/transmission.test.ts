await import('./transmission.js');
