"""A mail server (aiosmtpd) that writes what it is given into a directory.

    smtp_server.py DIRECTORY [CERTIFICATE KEY]

DIRECTORY/port tells its port once it listens. Every mail is a file there, 1.eml, 2.eml, ... While DIRECTORY/refuse
exists, it answers every receiver with what is in it. With a certificate it speaks STARTTLS, and wants deploy to log in with the
password pa55-of-deploy.
"""

import asyncio
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

directory = pathlib.Path(sys.argv[1])
tls = None
if len(sys.argv) > 2:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(sys.argv[2], sys.argv[3])


class Handler:
    count = 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        refuse = directory / "refuse"
        if refuse.exists():
            return refuse.read_text().strip()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        Handler.count += 1
        written = directory / f"{Handler.count}.tmp"
        written.write_bytes(envelope.original_content)
        written.rename(directory / f"{Handler.count}.eml")
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"deploy", b"pa55-of-deploy")
    return AuthResult(success=right, handled=right)


handler = Handler()


def session():
    if tls is None:
        return SMTP(handler, hostname="localhost")
    return SMTP(handler, hostname="localhost", tls_context=tls, require_starttls=True, authenticator=authenticate, auth_required=True)


async def main():
    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    part = directory / "port.tmp"
    part.write_text(str(server.sockets[0].getsockname()[1]))
    part.rename(directory / "port")
    await server.serve_forever()


asyncio.run(main())
