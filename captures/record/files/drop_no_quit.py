"""A load balancer's health check: the greeting will do."""

from dialogue import Dialogue

server = Dialogue()
server.reply()
server.close()
