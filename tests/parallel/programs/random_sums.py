import array
import random

from hybridloop import parallel

one_million = 1000000
large_array = array.array("b", random.choices(range(100), k=one_million))
fmt = "The sum of the items in slice [%d:%d] is %d"


class Random:
    http11 = True

    def random(self, transport, data):
        start = random.randrange(one_million - 10)
        end = start + 10
        return fmt % (start, end, sum(large_array[start:end]))


server = parallel.server("127.0.0.1", 0)
parallel.register(transport=server, protocol=Random)
print(server.port, flush=True)
parallel.run()
