using System.Diagnostics;
using Godwit.Memory;

namespace Godwit.Migration.Tests;

/// <summary>Machines saved to a file and restored from it.</summary>
public sealed class SavedMachineTests : IDisposable
{
    private const int Mebibytes = 16;

    private readonly TempDirectory _directory = new();

    private string Path => _directory.File("machine.save");

    private string Uri => $"file:{Path}";

    public void Dispose() => _directory.Dispose();

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void What_was_saved_is_restored_and_once_more(bool verify)
    {
        using TestMachine machine = Source();
        machine.Fill(11);
        machine.AddDirtyingVcpu(12, pages: 1024);
        Save(machine, verify);
        Assert.False(machine.Executing);
        Assert.True(machine.PostMigrate);
        Assert.Equal([Path], Directory.GetFiles(System.IO.Path.GetDirectoryName(Path)!));
        for (int i = 0; i < 2; i++)
        {
            using TestMachine restored = Destination();
            using var controller = Restore(restored);
            WaitFor(controller, MigrationState.Completed);
            Assert.True(restored.Executing);
            Assert.Null(TestMachine.FirstDifference(machine, restored));
            Assert.Equal(machine.Devices[0].State, restored.Devices[0].Loaded);
        }
    }

    [Fact]
    public void The_file_holds_pages_at_their_places_and_holes_for_zeros()
    {
        using TestMachine machine = Source();
        byte[] page = new byte[RamPage.Size];
        page.AsSpan().Fill(0x5A);
        machine.Ram.Blocks[0].Write(0x1000, page, DirtySource.Vmm);
        machine.Ram.Blocks[1].Write(0x3000, page, DirtySource.Vmm);
        Save(machine);
        using FileStream file = File.OpenRead(Path);
        byte[] read = new byte[RamPage.Size];
        // The second block comes behind the first, which has 2 MiB.
        foreach (ulong offset in new[] { SavedMachineLayout.RamOffset + 0x1000, SavedMachineLayout.RamOffset + (2 << 20) + 0x3000 })
        {
            file.Position = (long)offset;
            file.ReadExactly(read);
            Assert.Equal(page, read);
        }

        using SavedMachineFile saved = SavedMachineFile.OpenToRead(Path);
        ulong next = saved.Next(SavedMachineLayout.RamOffset + 0x4000, SavedMachineLayout.RamOffset + (2 << 20), data: true);
        Assert.True(next == SavedMachineLayout.RamOffset + (2 << 20), $"there is data at {next}, in pages of zeros");
        Assert.Equal((UnixFileMode)0b110_000_000, File.GetUnixFileMode(Path));
    }

    [Fact]
    public void A_page_that_became_zero_is_a_hole_again()
    {
        using TestMachine machine = Source();
        machine.Fill(13);
        bool cleared = false;
        // After the first round, and before the guest is stopped.
        machine.Calls.On("log0.Sync", () =>
        {
            if (cleared)
                return;
            cleared = true;
            foreach (RamBlock block in machine.Ram.Blocks)
                block.Write(0, new byte[block.Size], DirtySource.Vcpu);
        });
        Save(machine, verify: true);
        Assert.True(cleared);
        using SavedMachineFile saved = SavedMachineFile.OpenToRead(Path);
        ulong end = SavedMachineLayout.Of(machine.Ram.Blocks).TailOffset;
        Assert.Equal(end, saved.Next(SavedMachineLayout.RamOffset, end, data: true));
    }

    [Theory]
    [InlineData("iommu.Save")]
    [InlineData("nvme0.ReadState(end)")]
    public void A_save_that_fails_leaves_the_machine_running_and_no_file(string call)
    {
        using TestMachine machine = Source();
        machine.Fill(14);
        machine.Calls.FailAt(call);
        using var controller = new MigrationController(machine, TimeProvider.System);
        controller.Start(Uri);
        WaitFor(controller, MigrationState.Failed);
        AssertRunsOn(machine);
        machine.Calls.Clear();
        Save(machine);
    }

    [Fact]
    public void A_cancelled_save_leaves_the_machine_running_and_no_file()
    {
        using TestMachine machine = Source();
        machine.Fill(15);
        using var controller = new MigrationController(machine, TimeProvider.System);
        controller.Parameters = new MigrationParameters { MinimumPrecopy = TimeSpan.FromHours(1) };
        controller.PassStarted += pass =>
        {
            if (pass == 3)
                controller.Cancel();
        };
        controller.Start(Uri);
        WaitFor(controller, MigrationState.Cancelled);
        AssertRunsOn(machine);
    }

    [Fact]
    public void Nothing_that_exists_is_overwritten()
    {
        using TestMachine machine = Source();
        File.WriteAllText(Path, "precious");
        using var controller = new MigrationController(machine, TimeProvider.System);
        controller.Start(Uri);
        WaitFor(controller, MigrationState.Failed);
        Assert.Contains("it exists", controller.Status.Error, StringComparison.Ordinal);
        Assert.Equal("precious", File.ReadAllText(Path));
        Assert.True(machine.Executing);
    }

    [Fact]
    public void A_full_disk_fails_the_save_and_the_machine_runs_on()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "mounting a small file system needs root");
        string small = Directory.CreateDirectory(_directory.File("small")).FullName;
        Assert.SkipUnless(Run("mount", "-t", "tmpfs", "-o", "size=4m", "godwit-test", small), "no file system can be mounted here");
        try
        {
            using TestMachine machine = Source();
            machine.Fill(16);
            using var controller = new MigrationController(machine, TimeProvider.System);
            controller.Start($"file:{small}/machine.save");
            WaitFor(controller, MigrationState.Failed);
            Assert.Contains("ENOSPC", controller.Status.Error, StringComparison.Ordinal);
            Assert.True(machine.Executing);
            Assert.False(machine.Ram.Dirty.Enabled);
            Assert.Empty(Directory.GetFiles(small));
        }
        finally
        {
            Assert.True(Run("umount", small));
        }
    }

    public static TheoryData<string, string> Damages => new()
    {
        { "empty", "the first page alone has 4096" },
        { "zero header", "the save did not come to its end" },
        { "magic", "it begins with 0x" },
        { "header", "the CRC of its first page" },
        { "short", "but the file ends at" },
        { "tail", "Restoring from" },
        { "another version", "version is 3; this side speaks version 4" },
        { "page", "pages differ" },
    };

    [Theory]
    [MemberData(nameof(Damages))]
    public void A_damaged_file_is_refused_and_the_machine_never_runs(string damage, string says)
    {
        using TestMachine machine = Source();
        machine.Fill(17);
        Save(machine, verify: true);
        ulong tail = SavedMachineLayout.Of(machine.Ram.Blocks).TailOffset;
        using (var file = new FileStream(Path, FileMode.Open, FileAccess.ReadWrite))
        {
            switch (damage)
            {
                case "empty":
                    file.SetLength(0);
                    break;
                case "zero header":
                    file.Write(new byte[4096]);
                    break;
                case "magic":
                    file.WriteByte((byte)'g');
                    break;
                case "header":
                    file.Position = 70;
                    file.WriteByte(0x77);
                    break;
                case "short":
                    file.SetLength((long)tail + 10);
                    break;
                case "another version":
                    byte[] preface = new byte[StreamFormat.PrefaceSize];
                    file.Position = (long)tail;
                    file.ReadExactly(preface);
                    BitConverter.TryWriteBytes(preface.AsSpan(8), 3);
                    BitConverter.TryWriteBytes(preface.AsSpan(12), FrameWriter.PrefaceCrc(preface));
                    file.Position = (long)tail;
                    file.Write(preface);
                    break;
                case "tail":
                    file.Position = (long)tail + 100;
                    int old = file.ReadByte();
                    file.Position--;
                    file.WriteByte((byte)(old ^ 1));
                    break;
                default:
                    file.Position = (long)SavedMachineLayout.RamOffset + 0x5000;
                    file.Write("not what was there"u8);
                    break;
            }
        }

        using TestMachine restored = Destination();
        string error;
        try
        {
            using MigrationController controller = Restore(restored);
            WaitFor(controller, MigrationState.Failed);
            error = controller.Status.Error!;
        }
        catch (IOException e)
        {
            error = e.Message;
        }

        Assert.Contains(says, error, StringComparison.Ordinal);
        Assert.False(restored.Executing || restored.Arrived);
    }

    [Fact]
    public void A_file_of_another_machine_is_refused_with_every_difference()
    {
        using TestMachine machine = Source();
        Save(machine);
        using TestMachine other = Destination();
        other.Description["iommu.aw-bits"] = "48";
        using MigrationController controller = Restore(other);
        WaitFor(controller, MigrationState.Failed);
        Assert.Contains("iommu.aw-bits: source 39, destination 48", controller.Status.Error, StringComparison.Ordinal);
    }

    private static bool Run(string program, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { UseShellExecute = false, RedirectStandardError = true })!;
        process.WaitForExit();
        return process.ExitCode == 0;
    }

    private static TestMachine Source() => new(Mebibytes, twoBlocks: true);

    private static TestMachine Destination() => new(Mebibytes, running: false, twoBlocks: true);

    private void Save(TestMachine machine, bool verify = false)
    {
        using var controller = new MigrationController(machine, TimeProvider.System);
        controller.Parameters = new MigrationParameters { VerifyPages = verify, DowntimeLimit = TimeSpan.FromSeconds(60) };
        controller.Start(Uri);
        WaitFor(controller, MigrationState.Completed);
        if (verify)
            Assert.Equal(0, controller.Status.Verification!.PagesDiffering);
    }

    private MigrationController Restore(TestMachine machine)
    {
        var controller = new MigrationController(machine, TimeProvider.System);
        try
        {
            controller.Listen(Uri);
            return controller;
        }
        catch
        {
            controller.Dispose();
            throw;
        }
    }

    private void AssertRunsOn(TestMachine machine)
    {
        Assert.True(machine.Executing);
        Assert.False(machine.PostMigrate);
        Assert.False(machine.Ram.Dirty.Enabled);
        Assert.Empty(Directory.GetFiles(System.IO.Path.GetDirectoryName(Path)!));
    }

    private static void WaitFor(MigrationController controller, MigrationState state)
    {
        Assert.True(
            SpinWait.SpinUntil(() => MigrationProgress.IsOver(controller.Status.State) && controller.Status.State != MigrationState.None, Pair.Patience));
        Assert.True(controller.Status.State == state, $"{controller.Status.State}: {controller.Status.Error}");
    }
}
