"""A provider of proxies and the Internet behind it, in one small process of the standard library.

`python -m sandbox.provider --port 1080 --login local` sells what the template `generic` describes: SOCKS5 and HTTP
CONNECT on one port, user `<login>-<label>`, and for every user name an exit IP of its own. Behind it are WhatsApp's
names, where somebody says everything back, and the address that tells callers their exit IP. Nothing leaves the machine.
What it carries stands in a journal (`sandbox.provider.journal`) that tests judge by; knobs (`sandbox.provider.control`)
make it as troublesome as real ones are.
"""
