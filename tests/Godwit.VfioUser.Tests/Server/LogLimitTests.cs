using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>A served log with the limits of hardware refuses what is beyond them, by the errno of the kernel's drivers, and takes the rest.</summary>
public sealed class LogLimitTests
{
    private const ulong Page = 4096;

    [Theory]
    [InlineData(Errno.None, 4UL, 4UL)]
    [InlineData(Errno.None, 8UL)]
    [InlineData(Errno.None, 2UL)]
    [InlineData(Errno.ENOTSUP, 1UL)] // too little
    [InlineData(Errno.ENOTSUP, 9UL)] // too much
    [InlineData(Errno.ENOTSUP, 4UL, 5UL)] // too much together
    [InlineData(Errno.E2BIG, 1UL, 1UL, 1UL)] // too many
    [InlineData(Errno.ENOTSUP)] // no range is everything
    public void RangesBeyondTheLimitsAreRefused(Errno expected, params ulong[] pages)
    {
        using var server = new TestServer(configure: o => o with { LogLimits = new DmaLogLimits { MaxRanges = 2, MinSpan = 2 * Page, MaxSpan = 8 * Page } });
        using VfioUserClient client = server.Connect();
        DmaRange[] ranges = [.. pages.Select((count, i) => new DmaRange(new DmaAddress(((ulong)i + 1) << 20), count * Page))];
        if (expected == Errno.None)
        {
            Assert.Equal(Page, client.StartDmaLogging(Page, ranges));
            client.StopDmaLogging();
            return;
        }

        Assert.Equal(expected, Assert.Throws<VfioUserRemoteException>(() => client.StartDmaLogging(Page, ranges)).Errno);
        // Nothing was started.
        Assert.Throws<VfioUserRemoteException>(client.StopDmaLogging);
    }

    [Fact]
    public void WithoutLimitsEverythingIsTaken()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        Assert.Equal(Page, client.StartDmaLogging(Page, []));
    }

    [Fact]
    public void ACoarserPageIsAnsweredThanWasAsked()
    {
        using var server = new TestServer(configure: o => o with { LogLimits = new DmaLogLimits { PageSize = 65536 } });
        using VfioUserClient client = server.Connect();
        Assert.Equal(65536UL, client.StartDmaLogging(Page, []));
        client.StopDmaLogging();
        Assert.Equal(1UL << 20, client.StartDmaLogging(1 << 20, []));
    }
}
