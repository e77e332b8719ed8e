"""Credentials of many kinds, made up at run time: none stands in this repository."""

import base64
import random
import string

LOWER, UPPER, DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
ALNUM = LOWER + UPPER + DIGITS
HEX = "0123456789abcdef"


def planted(seed: int) -> dict[str, tuple[str, str]]:
    """Kind -> (the secret, a line of Python that holds it)."""
    rng = random.Random(seed)

    def some(alphabet: str, length: int) -> str:
        return "".join(rng.choices(alphabet, k=length))

    def b64(length: int) -> str:
        return base64.b64encode(rng.randbytes(length)).decode()

    key_lines = "\n".join(b64(48) for _ in range(12))
    kind = "RSA PRIVATE KEY"
    values = {
        "aws id": "AKIA" + some(UPPER + "234567", 16),
        "aws secret": some(ALNUM + "/+", 40),
        "github": "ghp_" + some(ALNUM, 36),
        "gitlab": "glpat-" + some(ALNUM, 20),
        "slack": f"xoxb-{some(DIGITS, 12)}-{some(DIGITS, 12)}-{some(ALNUM, 24)}",
        "stripe": "sk_live_" + some(ALNUM, 24),
        "google": "AIza" + some(ALNUM, 35),
        "npm": "npm_" + some(ALNUM, 36),
        "pypi": "pypi-AgEIcHlwaS5vcmc" + some(ALNUM, 80),
        "sendgrid": f"SG.{some(ALNUM, 22)}.{some(ALNUM, 43)}",
        "hugging face": "hf_" + some(LOWER + UPPER, 34),
        "jwt": "eyJhbGciOiJIUzI1NiJ9."
        + base64.urlsafe_b64encode(b'{"sub":"%d"}' % rng.randrange(10**9)).decode().rstrip("=")
        + "."
        + some(ALNUM, 43),
        "private key": f"-----BEGIN {kind}-----\n{key_lines}\n-----END {kind}-----",
        "azure storage": b64(64),
        "mailchimp": some(HEX, 32) + "-us12",
        "password": "Vq7" + some(ALNUM, 9) + "!x",
        "database": "k9" + some(ALNUM, 14),
        "bearer": some(ALNUM, 40),
        "named": some(ALNUM, 32),
    }
    lines = {kind: f'VALUE = "{value}"' for kind, value in values.items()}
    lines |= {
        "aws secret": f'aws_secret_access_key = "{values["aws secret"]}"',
        "private key": f'KEY = """{values["private key"]}"""',
        "azure storage": f'URL = "AccountName=a;AccountKey={values["azure storage"]}"',
        "password": f'db_password = "{values["password"]}"',
        "database": f'DSN = "postgresql://admin:{values["database"]}@db.internal:5432/shop"',
        "bearer": f'HEADERS = {{"Authorization": "Bearer {values["bearer"]}"}}',
        "named": f'client_secret = "{values["named"]}"',
    }
    return {kind: (values[kind], lines[kind]) for kind in values}
