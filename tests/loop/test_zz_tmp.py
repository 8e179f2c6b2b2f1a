import signal, time, pytest
@pytest.mark.timeout(1, method="signal")
def test_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(200)
