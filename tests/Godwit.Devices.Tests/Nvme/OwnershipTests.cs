using Godwit.Interop.Linux;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices.Tests;

public class OwnershipTests
{
    [Fact]
    public void TwoRunningServersOnOneImageAreRefused()
    {
        using var image = new TempImage();
        using var first = new NvmeRig(image: image);
        using var second = new NvmeRig(o => o with { OwnershipWait = TimeSpan.Zero }, image);
        first.Driver.Enable();
        Assert.True(first.Controller.OwnsImage);
        second.Driver.Write32(NvmeRegister.AdminQueueAttributes, 0x001F_001F);
        second.Driver.Write64(NvmeRegister.AdminSubmissionBase, GuestMemory.Base);
        second.Driver.Write64(NvmeRegister.AdminCompletionBase, GuestMemory.Base + 4096);
        byte[] enable = BitConverter.GetBytes(GuestDriver.ConfigurationFor(12));
        Assert.Equal(Errno.EBUSY, second.Controller.WriteRegion(0, NvmeRegister.Configuration, enable));
        Assert.Equal(2u, second.Driver.Status & 2);
        Assert.Contains($"{image.Path} belongs to another running server", second.AllLog, StringComparison.Ordinal);
        Assert.False(second.Controller.OwnsImage);

        // When the first has gone, a reset makes the second work.
        first.Controller.OnDisconnected();
        Assert.False(first.Controller.OwnsImage);
        second.Driver.Write32(NvmeRegister.Configuration, 0);
        second.Driver.Enable();
        Assert.Equal(1u, second.Driver.Status);
        second.Driver.CreateQueue(1);

        // And the first, coming back with its enabled controller, finds the image taken.
        first.Controller.OnConnected(first.Host);
    }

    [Fact]
    public void AMigrationHandsTheImageOverOnceAndTheSourceCannotTakeItBack()
    {
        using var image = new TempImage();
        using var memory = new GuestMemory(4 << 20);
        using var source = new NvmeRig(o => o with { OwnershipWait = TimeSpan.Zero }, image, memory);
        source.Driver.Enable();
        source.Go(Running, PreCopy, PreCopyP2P);
        Assert.True(source.Controller.OwnsImage);

        using var destination = new NvmeRig(o => o with { OwnershipWait = TimeSpan.Zero }, image, memory);
        destination.Go(Running, RunningP2P, Stop, Resuming);
        Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(MigrationTests.ReadAll(source.Controller)));
        source.Go(PreCopyP2P, StopCopy);
        Assert.False(source.Controller.OwnsImage);
        Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(MigrationTests.ReadAll(source.Controller)));
        destination.Go(Resuming, Stop);
        Assert.False(destination.Controller.OwnsImage);
        destination.Go(Stop, RunningP2P);
        Assert.True(destination.Controller.OwnsImage);

        source.Go(StopCopy, Stop);
        Assert.Equal(Errno.EBUSY, source.Controller.Transition(Stop, RunningP2P));
        Assert.False(source.Controller.OwnsImage);
        // The destination fails and goes: the source can go on.
        destination.Controller.OnDisconnected();
        source.Go(Stop, RunningP2P, Running);
        Assert.True(source.Controller.OwnsImage);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task EnteringARunningStateWaitsForTheOwnerToLetGo(bool itDoes)
    {
        using var image = new TempImage();
        using var owner = new NvmeRig(image: image);
        owner.Driver.Enable();
        var clock = new ManualClock();
        using var next = new NvmeRig(o => o with { OwnershipWait = TimeSpan.FromHours(1), Clock = clock }, image);
        Task<Errno> enabling = Task.Run(() =>
        {
            next.Driver.Write32(NvmeRegister.AdminQueueAttributes, 0x001F_001F);
            next.Driver.Write64(NvmeRegister.AdminSubmissionBase, GuestMemory.Base);
            next.Driver.Write64(NvmeRegister.AdminCompletionBase, GuestMemory.Base + 4096);
            return next.Controller.WriteRegion(0, NvmeRegister.Configuration, BitConverter.GetBytes(GuestDriver.ConfigurationFor(12)));
        });
        if (itDoes)
        {
            owner.Go(Running, RunningP2P, Stop);
        }
        else
        {
            while (!enabling.IsCompleted)
            {
                clock.Advance(TimeSpan.FromHours(1)); // whenever it has begun to wait
                Thread.Yield();
            }
        }
        Assert.Equal(itDoes ? Errno.None : Errno.EBUSY, await enabling.WaitAsync(TimeSpan.FromSeconds(60)));
        Assert.Equal(itDoes, next.Controller.OwnsImage);
        Assert.Equal(!itDoes, next.AllLog.Contains("did not let go within", StringComparison.Ordinal));
    }

    [Fact]
    public void OnlyAnEnabledControllerTakesTheImage()
    {
        using var image = new TempImage();
        using var first = new NvmeRig(image: image);
        using var second = new NvmeRig(image: image);
        Assert.False(first.Controller.OwnsImage);
        first.Go(Running, RunningP2P, Stop, RunningP2P, Running);
        Assert.False(first.Controller.OwnsImage);
        second.Driver.Enable();
        Assert.True(second.Controller.OwnsImage);
        second.Driver.Write32(NvmeRegister.Configuration, 0);
        Assert.True(second.Controller.OwnsImage); // the guest resets its controller; the image is still its machine's
        second.Go(Running, RunningP2P, Stop);
        Assert.False(second.Controller.OwnsImage);
    }
}
