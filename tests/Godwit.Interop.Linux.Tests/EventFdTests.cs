namespace Godwit.Interop.Linux.Tests;

public sealed unsafe class EventFdTests
{
    [Fact]
    public void Signals_add_up_until_drained()
    {
        using EventFd bell = EventFd.Create();
        Assert.Equal(0UL, bell.Drain());
        Assert.True(bell.Signal());
        Assert.True(bell.Signal());
        Assert.Equal(2UL, bell.Drain());
        Assert.Equal(0UL, bell.Drain());
    }

    [Fact]
    public void Poll_wakes_on_a_signal()
    {
        using EventFd bell = EventFd.Create();
        var wanted = new pollfd { fd = bell.Number, events = poll.POLLIN };
        Assert.Equal(0, poll.wait(&wanted, 1, 0));
        var ringer = new Thread(() => bell.Signal());
        ringer.Start();
        Assert.Equal(1, poll.wait(&wanted, 1, 30_000));
        Assert.Equal(poll.POLLIN, wanted.revents);
        Assert.True(ringer.Join(TimeSpan.FromSeconds(30)));
        Assert.Equal(1UL, bell.Drain());
    }

    [Fact]
    public void A_saturated_counter_still_counts_as_signalled()
    {
        using EventFd bell = EventFd.Create();
        ulong most = ulong.MaxValue - 1; // eventfd(2): the largest value of the counter
        Assert.Equal(sizeof(ulong), unistd.write(bell, &most, sizeof(ulong)));
        Assert.True(bell.Signal());
        Assert.Equal(most, bell.Drain());
    }

    [Fact]
    public void A_descriptor_that_takes_no_write_is_told_apart()
    {
        using MemFd file = MemFd.Create("no eventfd", 4);
        using EventFd wrong = EventFd.AdoptEventFd(unistd.fcntl(file, unistd.F_DUPFD_CLOEXEC, 0));
        Assert.False(wrong.Signal()); // 4 bytes of the sealed file are written, not 8
    }

    [Fact]
    public void An_adopted_descriptor_is_the_same_counter()
    {
        using EventFd bell = EventFd.Create();
        using EventFd peer = EventFd.AdoptEventFd(unistd.fcntl(bell, unistd.F_DUPFD_CLOEXEC, 0));
        Assert.True(peer.Signal());
        Assert.Equal(1UL, bell.Drain());
    }

    [Fact]
    public void It_closes_on_exec_and_never_blocks()
    {
        using EventFd bell = EventFd.Create();
        Assert.Equal(1, unistd.fcntl(bell, unistd.F_GETFD, 0));
        Assert.Equal(unistd.O_NONBLOCK, unistd.fcntl(bell, unistd.F_GETFL, 0) & unistd.O_NONBLOCK);
    }
}
