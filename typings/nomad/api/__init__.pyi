from nomad.api import exceptions as exceptions
