'use strict';

const element = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};

const examples = (content) => Object.entries(content || {}).map(([kind, media]) => {
  const box = element('div');
  box.append(element('code', kind, 'muted'));
  if (media.example !== undefined) {
    const text = typeof media.example === 'string' ? media.example : JSON.stringify(media.example, null, 2);
    box.append(element('pre', text));
  }
  return box;
});

const table = (heads, rows) => {
  const made = element('table');
  const head = element('tr');
  head.append(...heads.map((text) => element('th', text)));
  made.append(head);
  for (const row of rows) {
    const line = element('tr');
    line.append(...row.map((text) => element('td', text)));
    made.append(line);
  }
  return made;
};

const parameters = (list) => table(
  ['parameter', 'in', 'required', 'what'],
  list.map((one) => [one.name, one.in, one.required ? 'yes' : 'no', one.description || '']),
);

const answer = (status, told) => {
  const box = element('details');
  box.dataset.status = status;
  const head = element('summary', status + ' ' + told.description, Number(status) >= 400 ? 'error' : '');
  box.append(head);
  const headers = Object.entries(told.headers || {});
  if (headers.length) {
    box.append(table(['header', 'what'], headers.map(([name, one]) => [name, one.description || ''])));
  }
  box.append(...examples(told.content));
  return box;
};

const callers = (security) => (security || []).map((one) => Object.keys(one).join(' and ')).join(', or ') || 'nobody in particular';

const show = (path, method, operation) => {
  const box = element('details');
  box.id = operation.operationId;
  const head = element('summary');
  head.append(element('span', method.toUpperCase(), 'method'), element('code', path), ' ' + (operation.summary || ''));
  box.append(head);
  if (operation.description) box.append(element('p', operation.description));
  box.append(element('p', 'Credentials: ' + callers(operation.security), 'muted'));
  if (operation.parameters && operation.parameters.length) box.append(parameters(operation.parameters));
  if (operation.requestBody) box.append(element('p', 'Body'), ...examples(operation.requestBody.content));
  for (const [status, told] of Object.entries(operation.responses)) box.append(answer(status, told));
  return box;
};

fetch('/schema').then((got) => got.json()).then((doc) => {
  const sections = new Map((doc.tags || []).map((tag) => [tag.name, [element('p', tag.description, 'muted')]]));
  for (const [path, item] of Object.entries(doc.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      if (!operation.operationId) continue;
      const tag = (operation.tags || ['other'])[0];
      if (!sections.has(tag)) sections.set(tag, []);
      sections.get(tag).push(show(path, method, operation));
    }
  }
  const main = document.querySelector('main');
  main.replaceChildren();
  for (const [tag, boxes] of sections) main.append(element('h2', tag), ...boxes);
}).catch(() => { document.querySelector('main').textContent = 'The document at /schema could not be read.'; });
