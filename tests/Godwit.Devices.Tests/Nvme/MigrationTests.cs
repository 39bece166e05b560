using Godwit.Interop.Linux;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices.Tests;

public class MigrationTests
{
    /// <summary>
    /// A guest that never stops: random commands on several queues with small completion queues, migrated again and again at random
    /// moments, cancelled now and then, with doorbells rung while the device is stopped.
    /// </summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void EveryCommandCompletesExactlyOnceAndWithTheRightData(int variant)
    {
        int seed = (Environment.TickCount * 31) + variant;
        var random = new Random(seed);
        using var world = new MigratingWorld(random, $"seed {seed}");
        for (int hop = 0; hop < 40; hop++)
        {
            int burst = random.Next(1, 60);
            for (int i = 0; i < burst; i++)
                world.Step();
            switch (random.Next(6))
            {
                case 0:
                    world.CancelInPreCopy();
                    break;
                case 1:
                    world.CancelAfterStop();
                    break;
                default:
                    world.Migrate();
                    break;
            }
        }
        world.Finish();
    }

    [Fact]
    public void AHeldEventRequestIsAnsweredByTheDestination()
    {
        using var memory = new GuestMemory(4 << 20);
        using var image = new TempImage();
        using var source = new NvmeRig(image: image, memory: memory);
        source.Driver.Enable();
        ushort id = source.Driver.Submit(source.Driver.Admin, new Sqe { Opcode = (byte)AdminOpcode.AsyncEventRequest });
        source.Driver.Succeed(GuestDriver.IdentifyCommand(1, 0, memory.Allocate(4096)));
        using NvmeRig destination = MoveTo(source, image, memory, out GuestDriver driver);
        driver.Write32(NvmeRegister.Doorbells + (7 * 8), 0);
        Cqe completion = driver.Wait(driver.Admin);
        Assert.Equal((id, 0x01_00_00u), (completion.Id, completion.Result));
        Assert.False(driver.TryReap(driver.Admin, out _));
    }

    [Fact]
    public void AnEventThatWaitsAndTheMaskMigrate()
    {
        using var memory = new GuestMemory(4 << 20);
        using var image = new TempImage();
        using var source = new NvmeRig(image: image, memory: memory);
        source.Driver.Enable();
        source.Driver.Write32(NvmeRegister.Doorbells + (7 * 8), 0);
        Assert.Equal(0x01_00_00u, source.Driver.Execute(new Sqe { Opcode = (byte)AdminOpcode.AsyncEventRequest }).Result); // masks the type
        source.Driver.Write32(NvmeRegister.Doorbells, 99); // waits
        using NvmeRig destination = MoveTo(source, image, memory, out GuestDriver driver);
        ushort id = driver.Submit(driver.Admin, new Sqe { Opcode = (byte)AdminOpcode.AsyncEventRequest });
        ushort read = driver.Submit(driver.Admin, AdminCommandTests.Log(NvmeLogPage.ErrorInformation, 64, memory.Allocate(4096)));
        Cqe first = driver.Wait(driver.Admin), second = driver.Wait(driver.Admin);
        Assert.Equal((read, NvmeStatus.Success), (first.Id, first.Status));
        Assert.Equal((id, 0x01_01_00u), (second.Id, second.Result));
    }

    [Fact]
    public void AllStateThatTheGuestCanSeeMigrates()
    {
        using var memory = new GuestMemory(4 << 20);
        using var image = new TempImage();
        using var source = new NvmeRig(image: image, memory: memory);
        GuestDriver driver = source.Driver;
        driver.Write32(0x04, 0x406, region: 7);
        driver.Write32(0x10, 0xC000_0000, region: 7);
        driver.Write32(PciIdentity.Msix, 0x8000_0000, region: 7);
        driver.Write32(PciIdentity.MsixTableOffset + 0x20, 0xFEE0_0000);
        driver.Enable(pageShift: 13);
        driver.Write32(NvmeRegister.InterruptMaskSet, 0x80);
        GuestQueue queue = driver.CreateQueue(3, 64, vector: 4);
        driver.Succeed(AdminCommandTests.Feature(AdminOpcode.SetFeatures, 0x01, 0x0102_0304));
        driver.Succeed(AdminCommandTests.Feature(AdminOpcode.SetFeatures, 0x04, 333));
        driver.Succeed(AdminCommandTests.Feature(AdminOpcode.SetFeatures, 0x06, 0));
        driver.Succeed(AdminCommandTests.Feature(AdminOpcode.SetFeatures, 0x09, (1u << 16) | 5));
        driver.Succeed(AdminCommandTests.Feature(AdminOpcode.SetFeatures, 0x0B, 0x1F));
        ulong page = memory.Allocate(8192, 8192);
        driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 1 << 20, 1, page)); // an error to log
        driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 0, 8, page));
        byte[] bar = Region(source, PciRegion.Bar0, PciIdentity.Bar0Size);
        byte[] config = Region(source, PciRegion.Config, PciIdentity.ConfigurationSize);
        (byte[] errors, byte[] health) = Logs(driver, page);

        using NvmeRig destination = MoveTo(source, image, memory, out driver);
        Assert.Equal(bar, Region(destination, PciRegion.Bar0, PciIdentity.Bar0Size));
        Assert.Equal(config, Region(destination, PciRegion.Config, PciIdentity.ConfigurationSize));
        (byte[] errorsAfter, byte[] healthAfter) = Logs(driver, page);
        Assert.Equal(errors, errorsAfter);
        Assert.Equal(health, healthAfter);
        Assert.Equal(0x0102_0304u, driver.Succeed(AdminCommandTests.Feature(AdminOpcode.GetFeatures, 0x01, 0)));
        Assert.Equal(333u, driver.Succeed(AdminCommandTests.Feature(AdminOpcode.GetFeatures, 0x04, 0)));
        Assert.Equal(0u, driver.Succeed(AdminCommandTests.Feature(AdminOpcode.GetFeatures, 0x06, 0)));
        Assert.Equal((1u << 16) | 5, driver.Succeed(AdminCommandTests.Feature(AdminOpcode.GetFeatures, 0x09, 5)));
        Assert.Equal(0x1Fu, driver.Succeed(AdminCommandTests.Feature(AdminOpcode.GetFeatures, 0x0B, 0)));
        driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, page));
        Assert.Equal(0, destination.Host.Triggers(PciIrq.Intx, 0));
        Assert.True(destination.Host.Triggers(PciIrq.Msix, 4) > 0);

        static (byte[] Errors, byte[] Health) Logs(GuestDriver driver, ulong page)
        {
            driver.Succeed(AdminCommandTests.Log(NvmeLogPage.ErrorInformation, 1024, page));
            byte[] errors = driver.Memory.Span(page, 1024).ToArray();
            driver.Succeed(AdminCommandTests.Log(NvmeLogPage.Health, 512, page));
            return (errors, driver.Memory.Span(page, 512).ToArray());
        }
    }

    [Fact]
    public void ADisabledAndAFatalControllerMigrateToo()
    {
        using var memory = new GuestMemory(4 << 20);
        using var image = new TempImage();
        using var source = new NvmeRig(image: image, memory: memory);
        source.Driver.Write32(NvmeRegister.AdminQueueAttributes, 0x0007_0007);
        using NvmeRig second = MoveTo(source, image, memory, out GuestDriver driver);
        Assert.Equal(0x0007_0007u, driver.Read32(NvmeRegister.AdminQueueAttributes));
        Assert.False(second.Controller.OwnsImage);
        driver.Write32(NvmeRegister.Configuration, 1 | (7u << 4));
        Assert.Equal(2u, driver.Status);
        using NvmeRig third = MoveTo(second, image, memory, out driver);
        Assert.Equal(2u, driver.Status);
        driver.Write32(NvmeRegister.Configuration, 0);
        driver.Enable();
        driver.CreateQueue(1);
    }

    [Fact]
    public void AShutdownThatWasAskedForWhileStoppedEndsAtTheDestination()
    {
        using var memory = new GuestMemory(4 << 20);
        using var image = new TempImage();
        using var source = new NvmeRig(image: image, memory: memory);
        source.Driver.Enable();
        source.Go(Running, RunningP2P);
        source.Driver.Write32(NvmeRegister.Configuration, GuestDriver.ConfigurationFor(12) | (1u << 14));
        Assert.Equal(1u, source.Driver.Status >> 2);
        source.Go(RunningP2P, Running); // not lost by going on either, but now the other way
        Assert.True(SpinWait.SpinUntil(() => source.Driver.Status >> 2 == 2, TimeSpan.FromSeconds(30)));

        source.Driver.Write32(NvmeRegister.Configuration, 0);
        source.Driver.Enable();
        source.Go(Running, RunningP2P, Stop);
        source.Driver.Write32(NvmeRegister.Configuration, GuestDriver.ConfigurationFor(12) | (1u << 14));
        source.Go(Stop, RunningP2P);
        Assert.Equal(1u, source.Driver.Status >> 2);
        source.Go(RunningP2P, Stop, StopCopy);
        using var destination = new NvmeRig(image: image, memory: memory);
        destination.Go(Running, RunningP2P, Stop, Resuming);
        Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(ReadAll(source.Controller)));
        destination.Go(Resuming, Stop, RunningP2P);
        Assert.Equal(1u, destination.Driver.Status >> 2);
        destination.Go(RunningP2P, Running);
        Assert.True(SpinWait.SpinUntil(() => destination.Driver.Status >> 2 == 2, TimeSpan.FromSeconds(30)));
    }

    [Fact]
    public void AControllerThatWasEnabledWhileStoppedRunsWhenItMay()
    {
        using var rig = new NvmeRig();
        rig.Go(Running, RunningP2P, Stop);
        rig.Host.Quiet = true;
        rig.Driver.Enable();
        Assert.False(rig.Controller.OwnsImage);
        ushort id = rig.Driver.Submit(rig.Driver.Admin, GuestDriver.IdentifyCommand(1, 0, rig.Memory.Allocate(4096)));
        rig.Go(Stop, RunningP2P);
        Assert.True(rig.Controller.OwnsImage);
        rig.Host.Quiet = false;
        rig.Go(RunningP2P, Running);
        Assert.Equal(id, rig.Driver.Wait(rig.Driver.Admin).Id);
    }

    [Fact]
    public void InterruptsThatMayHaveBeenLostAreRaisedAgain()
    {
        using var memory = new GuestMemory(4 << 20);
        using var image = new TempImage();
        using var source = new NvmeRig(image: image, memory: memory);
        source.Driver.Enable();
        GuestQueue queue = source.Driver.CreateQueue(1);
        long seen = source.Host.TriggerCount;
        source.Driver.Submit(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1));
        source.Host.WaitForTrigger(seen);
        using NvmeRig destination = MoveTo(source, image, memory, out GuestDriver driver);
        Assert.Equal(1, destination.Host.Triggers(PciIrq.Msix, 1));
        Assert.Equal(NvmeStatus.Success, driver.Wait(queue).Status);
    }

    [Fact]
    public void SizesAreExactInEveryState()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        ulong whole = rig.Controller.StopCopySize;
        rig.Go(Running, PreCopy);
        Assert.Equal(whole, rig.Controller.StopCopySize);
        byte[] part = new byte[7];
        Assert.Equal(7, rig.Controller.ReadMigrationData(part));
        Assert.Equal(whole - 7, rig.Controller.StopCopySize);
        int identity = 7;
        for (int count; (count = rig.Controller.ReadMigrationData(part)) > 0; identity += count)
        {
        }
        Assert.Equal(NvmeStateFormat.IdentitySize, identity);
        rig.Go(PreCopy, PreCopyP2P, StopCopy);
        ulong announced = rig.Controller.StopCopySize;
        Assert.Equal(whole - (ulong)identity, announced);
        ulong read = 0;
        for (int count; (count = rig.Controller.ReadMigrationData(part)) > 0; read += (ulong)count)
            Assert.Equal(announced - read - (ulong)count, rig.Controller.StopCopySize);
        Assert.Equal(announced, read);
        rig.Go(StopCopy, Stop);
        Assert.Equal(0, rig.Controller.ReadMigrationData(part));
        Assert.Equal(whole, rig.Controller.StopCopySize);
    }

    [Fact]
    public void OnlyArcsOfTheStateMachineAreTaken()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        foreach (DeviceMigrationState from in Enum.GetValues<DeviceMigrationState>())
        {
            Assert.Equal(Errno.EINVAL, rig.Controller.Transition(from, from));
            Assert.Equal(Errno.EINVAL, rig.Controller.Transition(from, Error));
            Assert.Equal(Errno.EINVAL, rig.Controller.Transition(Error, from));
        }
        Assert.Equal(Errno.EINVAL, rig.Controller.Transition(Running, StopCopy));
        Assert.Equal(Errno.EINVAL, rig.Controller.Transition(StopCopy, PreCopy));
        Assert.Equal(Errno.EINVAL, rig.Controller.Transition(Resuming, Running));
        Assert.Equal(Errno.EINVAL, rig.Controller.WriteMigrationData([1]));
    }

    [Fact]
    public async Task AReadThatDoesNotEndInTimeRefusesTheStop()
    {
        var clock = new ManualClock();
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue, o => o with { QuiesceWait = TimeSpan.FromHours(1), Clock = clock });
        using var gate = new ManualResetEventSlim();
        using var entered = new ManualResetEventSlim();
        rig.Host.BeforeAcquire = address =>
        {
            if (address != GuestMemory.Base + (15 << 20))
                return;
            entered.Set();
            Assert.True(gate.Wait(TimeSpan.FromSeconds(30)));
        };
        rig.Driver.Submit(queue, GuestDriver.Io(NvmOpcode.Read, 0, 1, GuestMemory.Base + (15 << 20)));
        Assert.True(entered.Wait(TimeSpan.FromSeconds(30)));
        Task<Errno> stop = Task.Run(() => rig.Controller.Transition(Running, RunningP2P));
        clock.AwaitTimer();
        clock.Advance(TimeSpan.FromHours(1));
        Assert.Equal(Errno.ETIMEDOUT, await stop.WaitAsync(TimeSpan.FromSeconds(60)));
        Assert.Contains("did not finish within 01:00:00", rig.AllLog, StringComparison.Ordinal);
        gate.Set();
        Assert.Equal(NvmeStatus.Success, rig.Driver.Wait(queue).Status);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1)).Status); // it runs on
        rig.Go(Running, RunningP2P, Stop);
    }

    [Fact]
    public void DisconnectionStopsEverythingAndReconnectionGoesOn()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        for (int i = 0; i < 60; i++)
            rig.Driver.Place(queue, GuestDriver.Io(NvmOpcode.Read, (ulong)i, 8, GuestMemory.Base + (15 << 20)), (ushort)i);
        rig.Driver.RingSubmissions(queue);
        rig.Controller.OnDisconnected();
        rig.Host.Quiet = true;
        Assert.False(rig.Controller.OwnsImage);
        long accesses = rig.Host.Accesses;
        rig.Host.Quiet = false;
        rig.Controller.OnConnected(rig.Host);
        for (int i = 0; i < 60; i++)
            Assert.Equal(i, rig.Driver.Wait(queue).Id);
        Assert.False(rig.Driver.TryReap(queue, out _));
        Assert.True(rig.Host.Accesses >= accesses);
    }

    internal static byte[] Region(NvmeRig rig, int region, int size)
    {
        byte[] bytes = new byte[size];
        Assert.Equal(Errno.None, rig.Controller.ReadRegion(region, 0, bytes));
        return bytes;
    }

    /// <summary>The whole migration by the shortest way; the driver goes on at the destination.</summary>
    internal static NvmeRig MoveTo(NvmeRig source, TempImage image, GuestMemory memory, out GuestDriver driver)
    {
        var destination = new NvmeRig(image: image, memory: memory);
        source.Go(Running, RunningP2P, Stop, StopCopy);
        source.Host.Quiet = true;
        destination.Host.Quiet = true;
        destination.Go(Running, RunningP2P, Stop, Resuming);
        byte[] all = ReadAll(source.Controller);
        Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(all));
        destination.Go(Resuming, Stop);
        destination.Host.Quiet = false;
        destination.Go(Stop, RunningP2P, Running);
        source.Go(StopCopy, Stop);
        driver = source.Driver;
        driver.Registers = new DirectRegisters(destination.Controller);
        driver.TriggerCount = () => destination.Host.TriggerCount;
        driver.WaitForTrigger = destination.Host.WaitForTrigger;
        return destination;
    }

    internal static byte[] ReadAll(NvmeController controller)
    {
        byte[] buffer = new byte[1 << 20];
        int count = 0;
        for (int step; (step = controller.ReadMigrationData(buffer.AsSpan(count))) > 0;)
            count += step;
        return buffer[..count];
    }
}
