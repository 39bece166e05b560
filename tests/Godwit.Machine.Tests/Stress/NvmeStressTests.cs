using Godwit.Machine.Guests.Stress;
using Godwit.Memory;

namespace Godwit.Machine.Tests;

/// <summary>The whole path in one process: guest, VT-d, VFIO, vfio-user over a socket, NVMe controller, image.</summary>
public sealed class NvmeStressTests : IDisposable
{
    private const long Enough = 4000;
    private readonly TempImage _image = new();

    public void Dispose() => _image.Dispose();

    [Theory]
    [InlineData(IommuKind.Intel, 39, "translate", "strict", 4096)]
    [InlineData(IommuKind.Intel, 48, "translate", "strict", 512)]
    [InlineData(IommuKind.Intel, 39, "translate", "lazy", 4096)]
    [InlineData(IommuKind.Intel, 48, "translate", "lazy", 4096)]
    [InlineData(IommuKind.Intel, 39, "passthrough", "strict", 4096)]
    [InlineData(IommuKind.Intel, 39, "off", "strict", 4096)]
    [InlineData(IommuKind.None, 39, "translate", "strict", 512)]
    public void The_guest_works_without_a_mismatch(IommuKind kind, int width, string iommu, string map, int blockSize)
    {
        using var rig = new StressRig(_image.FilePath, kind, width, blockSize, null, $"iommu={iommu}", $"map={map}", "region=8M");
        rig.Machine.Start();
        GuestReport report = rig.WaitFor(
            r => StressRig.Commands(r) >= Enough && r.BlocksVerified >= 1000 && r.CpuPagesDirtied > 0 && r.PagesVerified > 0, $"{Enough} commands");

        rig.Machine.Stop();
        report = rig.Machine.QueryGuest();
        StressRig.AssertClean(report);
        Assert.Equal("running", report.Phase);
        Assert.True(report.Reads > 0 && report.Writes > 0 && report.OtherCommands > 0 && report.Interrupts > 0, report.ToString());
        bool translated = kind == IommuKind.Intel && iommu == "translate";
        Assert.Equal(translated, report.Maps > 0);
        if (translated)
        {
            Assert.True(report.Unmaps > 0 && report.Unmaps <= report.Maps, report.ToString());
            Assert.True(rig.Machine.IommuChurn!.Value.Mapped >= report.Maps - 1000, $"{rig.Machine.IommuChurn} for {report.Maps} maps");
        }

        Assert.Empty(rig.Notices);
    }

    [Fact]
    public void A_deep_queue_of_large_commands_works()
    {
        using var rig = new StressRig(
            _image.FilePath, IommuKind.Intel, 39, 4096, null, "queue-depth=200", "io-size=256K", "region=32M", "churn=0", "dirty-rate=0");
        rig.Machine.Start();
        rig.WaitFor(r => StressRig.Commands(r) >= 2000, "2000 commands");
        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());
    }

    [Fact]
    public void One_command_at_a_time_works()
    {
        using var rig = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "queue-depth=1", "io-size=4K", "region=1M");
        rig.Machine.Start();
        rig.WaitFor(r => StressRig.Commands(r) >= 500, "500 commands");
        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());
    }

    [Fact]
    public void Two_controllers_work_each_in_a_domain_of_its_own()
    {
        using var second = new TempImage();
        using var rig = new StressRig(_image.FilePath, IommuKind.Intel, 48, 4096, second.FilePath, "region=4M", "io-size=16K", "map=lazy");
        rig.Machine.Start();
        rig.WaitFor(r => StressRig.Commands(r) >= 3000 && r.BlocksVerified > 500, "3000 commands");
        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());
        var control = StressState.LoadControl(rig.Machine.Board.Bus);
        ControllerState[] controllers = [.. Enumerable.Range(0, 2).Select(i => StressState.LoadController(rig.Machine.Board.Bus, control, i))];
        Assert.All(controllers, c => Assert.True(c.InterruptCount > 100, $"controller at 0x{c.Bdf:x} took {c.InterruptCount} interrupts"));
        Assert.NotEqual(controllers[0].Dma.Id, controllers[1].Dma.Id);
        Assert.NotEqual(controllers[0].Dma.Table.Root, controllers[1].Dma.Table.Root);
        Assert.Equal([1U, 8U], controllers.Select(c => c.SectorsPerBlock));
    }

    /// <summary>Steps, interrupts and their MMIO exits. Mapping is left out: the tables of the rooms below grow now and then.</summary>
    [Theory]
    [InlineData(IommuKind.None)]
    [InlineData(IommuKind.Intel)]
    public void A_running_guest_allocates_nothing(IommuKind kind)
    {
        using var rig = new StressRig(_image.FilePath, kind, 39, 4096, null, "region=4M", "iommu=passthrough");
        var program = new StressProgram();
        var cpu = new TestCpu(rig.Machine.Board.Bus);
        var apic = (Managed.ManagedVcpu)rig.Machine.Vcpus.All[0]; // never run: only takes the messages
        int measured = 0, allocating = 0;
        long bytes = 0;
        while (StressRig.Commands(program.ReadReport(rig.Machine.Board.Bus)) < 3000)
        {
            bool warm = rig.Machine.Board.Bus.Load<StressControl>(StressLayout.Control).Reads > 500;
            for (int i = 0; i < 100; i++)
            {
                int collections = GC.CollectionCount(0);
                long before = GC.GetAllocatedBytesForCurrentThread();
                if (apic.Registers.TryTakeInterrupt(out byte vector))
                    program.Interrupt(cpu, vector);
                else
                    program.Step(cpu);
                long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
                if (!warm || collections != GC.CollectionCount(0)) // a collection counts the rest of this thread's allocation buffer as allocated
                    continue;
                measured++;
                if (allocated == 0)
                    continue;
                allocating++;
                bytes += allocated;
            }
        }

        StressRig.AssertClean(program.ReadReport(rig.Machine.Board.Bus));
        Assert.True(measured > 1000, $"only {measured} steps were measured");
        // A few steps are the runtime's (see Allocations); what allocates for each interrupt does so in about a hundred, for each command in thousands.
        Assert.True(allocating < 20, $"{allocating} of {measured} steps have allocated, {bytes} bytes together");
    }

    [Fact]
    public void Rates_are_kept()
    {
        using var rig = new StressRig(
            _image.FilePath, IommuKind.Intel, 39, 4096, null, "io-rate=200", "dirty-rate=4", "churn=10", "region=8M", "working-set=1M");
        rig.Machine.Start();
        rig.WaitFor(r => StressRig.Commands(r) >= 200, "200 commands");
        rig.Machine.Stop();
        GuestReport report = rig.Machine.QueryGuest();
        StressRig.AssertClean(report);

        // The guest's own clock says how long it ran; it may do less than asked when starved, never more.
        double seconds = ((Managed.ManagedVcpu)rig.Machine.Vcpus.All[0]).Registers.ClockBase / 1e9;
        Assert.InRange(StressRig.Commands(report), 200, (200 * seconds) + 20);
        Assert.InRange(report.CpuPagesDirtied, 0, (4 * 256 * seconds) + 200);
    }

    [Fact]
    public void Pausing_again_and_again_loses_nothing()
    {
        using var rig = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=8M");
        rig.Machine.Start();
        for (long round = 1; round <= 20; round++)
        {
            rig.WaitFor(r => StressRig.Commands(r) >= round * 100, $"round {round}");
            rig.Machine.Stop();
            rig.Machine.Continue();
        }

        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());
    }

    [Fact]
    public void A_corrupted_disk_is_noticed_and_the_guest_goes_on()
    {
        using var rig = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=1M", "read-percent=60");
        rig.Machine.Start();
        rig.WaitFor(r => r.BlocksVerified > 500, "verified blocks");
        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());

        // Another byte in every block that the guest knows: whichever it reads first shows it.
        using (FileStream file = new(_image.FilePath, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite))
        {
            for (long at = 2048 + 77; at < 1 << 20; at += 4096)
            {
                file.Position = at;
                int old = file.ReadByte();
                file.Position = at;
                file.WriteByte((byte)(old ^ 0x10));
            }
        }

        rig.Machine.Continue();
        GuestReport report = rig.WaitFor(r => r.Mismatches > 0, "a mismatch");
        Assert.Contains(report.MismatchDetails, d => d.Contains("block", StringComparison.Ordinal) && d.Contains("sector 4", StringComparison.Ordinal));
        long commands = StressRig.Commands(report);
        rig.WaitFor(r => StressRig.Commands(r) > commands + 100, "more commands");
    }

    [Fact]
    public void Lost_pages_of_the_working_set_are_noticed()
    {
        using var rig = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=1M", "working-set=1M", "dirty-rate=32");
        rig.Machine.Start();
        rig.WaitFor(r => r.PagesVerified > 512, "the second sweep");
        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());

        // What a migration that lost a page would leave: the page as it was a while ago. One in low and one in high RAM.
        var control = rig.Machine.Board.Bus.Load<StressControl>(StressLayout.Control);
        ulong[] numbers = [
            Enumerable.Range(0, 256).Select(i => (ulong)i).First(i => control.Frames[control.WorkingSetFirst + i].Value < 1UL << 32),
            Enumerable.Range(0, 256).Select(i => (ulong)i).First(i => control.Frames[control.WorkingSetFirst + i].Value >= 1UL << 32)];
        byte[][] old = [.. numbers.Select(n => ReadPage(rig, control.Frames[control.WorkingSetFirst + n]))];
        long swept = rig.Machine.QueryGuest().PagesVerified;
        rig.Machine.Continue();
        rig.WaitFor(r => r.PagesVerified > swept + 1024, "more sweeps");
        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());
        for (int i = 0; i < numbers.Length; i++)
            rig.Machine.Board.Bus.Store(control.Frames[control.WorkingSetFirst + numbers[i]], old[i]);

        rig.Machine.Continue();
        GuestReport report = rig.WaitFor(r => r.Mismatches >= 2, "both mismatches");
        foreach (ulong number in numbers)
            Assert.Contains(report.MismatchDetails, d => d.Contains($"page {number} of the working set", StringComparison.Ordinal));
    }

    [Fact]
    public void A_device_that_goes_away_is_reported_and_the_machine_runs_on()
    {
        var rig = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=1M");
        using VirtualMachine machine = rig.Machine;
        machine.Start();
        rig.WaitFor(r => StressRig.Commands(r) > 100, "commands");
        rig.Server.Dispose();
        rig.WaitFor(_ => rig.Notices.Count > 0, "the notice");
        Assert.Contains("nvme0", rig.Notices[0], StringComparison.Ordinal);
        Assert.NotEmpty(machine.QueryBlockers());

        GuestReport report = rig.WaitFor(r => r.MismatchDetails.Any(d => d.Contains("controller is gone", StringComparison.Ordinal)), "the guest to see it");
        rig.WaitFor(r => r.CpuPagesDirtied > report.CpuPagesDirtied + 100, "the guest to go on");
        Assert.Equal(RunState.Running, machine.RunState);
        machine.Stop();
        machine.Continue();
    }

    [Fact]
    public void A_write_into_a_free_page_is_noticed()
    {
        using var rig = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=1M");
        rig.Machine.Start();
        rig.WaitFor(r => StressRig.Commands(r) > 100, "commands");
        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());

        // What a device does that still uses a mapping which has ended.
        var control = StressState.LoadControl(rig.Machine.Board.Bus);
        Assert.True(control.Pages.Count > 0);
        for (uint i = 0; i < control.Pages.Count; i++)
            rig.Machine.Board.Bus.Store(new Gpa(rig.Machine.Board.Bus.Load<ulong>(control.Pages.Stack + (i * 8))) + 1024, 0xBAD0_BAD0UL);
        rig.Machine.Continue();
        GuestReport report = rig.WaitFor(r => r.Mismatches > 0, "a mismatch");
        Assert.Contains(report.MismatchDetails, d => d.Contains("free page", StringComparison.Ordinal));
    }

    [Fact]
    public void Whatever_is_written_into_guest_memory_the_VMM_survives()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        for (int round = 0; round < 6; round++)
        {
            using var rig = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=1M", "working-set=1M");
            rig.Machine.Start();
            rig.WaitFor(r => StressRig.Commands(r) > 100, "commands");
            for (int i = 0; i < 2000; i++)
            {
                // The program's structures: control, controllers, tables, queues, slots.
                var at = new Gpa(StressLayout.Control.Value + (ulong)random.NextInt64(0x40_0000));
                if (i % 4 == 0)
                    at = new Gpa(StressLayout.Control.Value + (ulong)random.NextInt64(0x4000));
                rig.Machine.Board.Bus.Store(at, (byte)random.Next(256));
            }

            // It has panicked, or it goes on; either way the machine answers.
            GuestReport report = rig.Machine.QueryGuest();
            Assert.True(rig.Machine.RunState is RunState.Running or RunState.InternalError, $"seed {seed}, round {round}: {report}");
        }
    }

    private static byte[] ReadPage(StressRig rig, Gpa page)
    {
        byte[] bytes = new byte[4096];
        rig.Machine.Board.Bus.Load(page, bytes);
        return bytes;
    }
}
