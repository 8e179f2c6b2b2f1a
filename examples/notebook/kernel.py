"""A notebook's kernel on hybridloop.

jupyter kernelspec install --user examples/notebook --name hybridloop
"""

from ipykernel.kernelapp import launch_new_instance

import hybridloop

if __name__ == "__main__":
    hybridloop.install()
    launch_new_instance()
