using System.Collections.Concurrent;
using Godwit.Interop.Linux;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices.Tests;

public class ImageTests
{
    [Fact]
    public void AMissingImageIsCreatedWithItsSize()
    {
        using var image = new TempImage(create: false);
        using (var controller = NvmeController.Create(image.Options with { Size = 3 << 20 }, null))
            Assert.Equal(3UL << 20, controller.ImageSize);
        Assert.Equal(3 << 20, new FileInfo(image.Path).Length);
        using (var again = NvmeController.Create(image.Options with { Size = 3 << 20 }, null))
            Assert.Equal(3UL << 20, again.ImageSize);
    }

    [Fact]
    public void WrongImagesAreRefusedByName()
    {
        using var image = new TempImage(create: false);
        LinuxException missing = Assert.Throws<LinuxException>(() => NvmeController.Create(image.Options, null));
        Assert.Equal(Errno.ENOENT, missing.Errno);
        Assert.Contains(image.Path, missing.Message, StringComparison.Ordinal);

        File.WriteAllBytes(image.Path, []);
        Refused(image.Options, "0 bytes is outside");
        File.WriteAllBytes(image.Path, new byte[1000]);
        Refused(image.Options, "1000 bytes is no multiple of the block size 512");
        File.WriteAllBytes(image.Path, new byte[4096]);
        Refused(image.Options with { Size = 8192 }, "has 4096 bytes, not 8192");
        Refused(image.Options with { Size = 4097 }, "no multiple");
        Refused(image.Options with { ImagePath = "/dev/null" }, "neither a regular file nor a block device");
        LinuxException folder = Assert.Throws<LinuxException>(() => NvmeController.Create(image.Options with { ImagePath = image.Folder }, null));
        Assert.Equal(Errno.EISDIR, folder.Errno);

        static void Refused(NvmeOptions options, string why)
        {
            NvmeOptionsException refusal = Assert.Throws<NvmeOptionsException>(() => NvmeController.Create(options, null));
            Assert.Contains(why, refusal.Message, StringComparison.Ordinal);
        }
    }

    public static TheoryData<string> BadOptions =>
        ["ImagePath", "BlockSize", "Size", "Serial", "MaxQueues", "QueueSize", "MaxTransfer", "Workers", "OwnershipWait", "QuiesceWait"];

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreRefusedByName(string name)
    {
        using var image = new TempImage();
        NvmeOptions good = image.Options;
        NvmeOptions[] bad = name switch
        {
            "ImagePath" => [good with { ImagePath = "" }],
            "BlockSize" => [good with { BlockSize = 0 }, good with { BlockSize = 1024 }, good with { BlockSize = -512 }],
            "Size" => [good with { Size = 0 }, good with { Size = 513 }, good with { Size = ulong.MaxValue & ~511UL }],
            "Serial" => [good with { Serial = "" }, good with { Serial = new string('x', 21) }, good with { Serial = "é" }, good with { Serial = " x" }],
            "MaxQueues" => [good with { MaxQueues = 0 }, good with { MaxQueues = 256 }],
            "QueueSize" => [good with { QueueSize = 1 }, good with { QueueSize = 65537 }],
            "MaxTransfer" => [good with { MaxTransfer = 2048 }, good with { MaxTransfer = 12288 }, good with { MaxTransfer = 8 << 20 }],
            "Workers" => [good with { Workers = 0 }, good with { Workers = 17 }],
            "OwnershipWait" => [good with { OwnershipWait = TimeSpan.FromSeconds(-1) }],
            _ => [good with { QuiesceWait = TimeSpan.FromDays(1) }],
        };
        foreach (NvmeOptions options in bad)
            Assert.Equal(name, Assert.Throws<NvmeOptionsException>(() => NvmeController.Create(options, null)).Option);
    }

    [Fact]
    public void TheDefaultSerialFollowsTheFileNameOnly()
    {
        string one = NvmeIdentity.DefaultSerial("/a/b/disk.img");
        Assert.Equal(one, NvmeIdentity.DefaultSerial("/c/disk.img"));
        Assert.NotEqual(one, NvmeIdentity.DefaultSerial("/a/b/other.img"));
        Assert.InRange(one.Length, 1, 20);
    }

    [Fact]
    public void AnImageThatWasCutIsAnUnrecoveredReadErrorWithALine()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong buffer = rig.Memory.Allocate(4096);
        using (var file = new FileStream(rig.Image.Path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
            file.SetLength(4096);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, buffer)).Status);
        Cqe completion = rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 8, 8, buffer));
        Assert.Equal(NvmeStatus.UnrecoveredReadError, completion.Status);
        Assert.False(completion.DoNotRetry);
        Assert.Contains($"read of 4096 bytes at offset 4096 of {rig.Image.Path} failed: the file ends before it", rig.AllLog, StringComparison.Ordinal);
    }

    /// <summary>A memfd sealed against writing and growing: the kernel itself refuses.</summary>
    [Fact]
    public void ARefusedWriteIsAWriteFaultWithALine()
    {
        using ErrorRig rig = ErrorRig.OnSealedMemory(unistd.F_SEAL_GROW | unistd.F_SEAL_SHRINK | 0x8 /* F_SEAL_WRITE */);
        ulong buffer = rig.Memory.Allocate(4096);
        Assert.Equal(NvmeStatus.WriteFault, rig.Execute(GuestDriver.Io(NvmOpcode.Write, 3, 1, buffer)).Status);
        Assert.Equal(NvmeStatus.WriteFault, rig.Execute(GuestDriver.Io(NvmOpcode.WriteZeroes, 3, 1)).Status);
        Assert.Equal(NvmeStatus.Success, rig.Execute(GuestDriver.Io(NvmOpcode.Read, 3, 1, buffer)).Status);
        Assert.Contains("write of 512 bytes at offset 1536 of test image failed", rig.AllLog, StringComparison.Ordinal);
        Assert.Contains("EPERM", rig.AllLog, StringComparison.Ordinal);
    }

    /// <summary>/dev/full answers every write with ENOSPC, and reads are endless zeroes.</summary>
    [Fact]
    public void AFullDiskIsCapacityExceededWithALine()
    {
        using ErrorRig rig = ErrorRig.OnDevice("/dev/full");
        ulong buffer = rig.Memory.Allocate(8192);
        Cqe completion = rig.Execute(GuestDriver.Io(NvmOpcode.Write, 3, 16, buffer, buffer + 4096));
        Assert.Equal(NvmeStatus.CapacityExceeded, completion.Status);
        Assert.False(completion.DoNotRetry);
        Assert.Equal(NvmeStatus.Success, rig.Execute(GuestDriver.Io(NvmOpcode.Read, 3, 1, buffer)).Status);
        Assert.Contains("offset 1536 of test image failed: No space left on device (ENOSPC)", rig.AllLog, StringComparison.Ordinal);
        // It has no storage to flush either: fdatasync(2) says EINVAL.
        Assert.Equal(NvmeStatus.WriteFault, rig.Execute(GuestDriver.Io(NvmOpcode.Flush, 0, 1)).Status);
        Assert.Contains("flush of test image failed", rig.AllLog, StringComparison.Ordinal);
        Assert.Equal(2, rig.Controller.Statistics.Errors);
    }

    /// <summary>Files that cannot allocate: zeroes are written the long way, and deallocation is a hint that is not taken.</summary>
    [Fact]
    public void WithoutHolesZeroesAreWritten()
    {
        using ErrorRig rig = ErrorRig.OnDevice("/dev/zero");
        Assert.Equal(NvmeStatus.Success, rig.Execute(GuestDriver.Io(NvmOpcode.WriteZeroes, 0, 2048)).Status);
        Sqe manage = new() { Opcode = (byte)NvmOpcode.DatasetManagement, Nsid = 1, Prp1 = rig.Memory.Allocate(4096), D11 = 4 };
        rig.Memory.Span(manage.Prp1, 16)[4] = 1;
        Assert.Equal(NvmeStatus.Success, rig.Execute(manage).Status);

        using ErrorRig full = ErrorRig.OnDevice("/dev/full");
        Assert.Equal(NvmeStatus.CapacityExceeded, full.Execute(GuestDriver.Io(NvmOpcode.WriteZeroes, 0, 2048)).Status);
    }

    /// <summary>An image that other hosts may see is flushed during pre-copy, and is not let go before a flush has succeeded.</summary>
    [Fact]
    public void AnImageWhoseDataCannotBeFlushedIsNotHandedOver()
    {
        using ErrorRig rig = ErrorRig.OnDevice("/dev/full"); // no regular file, and cannot be flushed
        Assert.Equal(Errno.None, rig.Controller.Transition(Running, PreCopy));
        byte[] data = new byte[1000];
        while (rig.Controller.ReadMigrationData(data) > 0)
        {
        }
        Assert.True(SpinWait.SpinUntil(() => rig.AllLog.Contains("flush of test image failed", StringComparison.Ordinal), TimeSpan.FromSeconds(30)));
        Assert.Equal(Errno.None, rig.Controller.Transition(PreCopy, PreCopyP2P));
        Assert.Equal(Errno.EINVAL, rig.Controller.Transition(PreCopyP2P, StopCopy));
        Assert.True(rig.Controller.OwnsImage);
        Assert.Equal(Errno.None, rig.Controller.Transition(PreCopyP2P, PreCopy));
        Assert.Equal(NvmeStatus.Success, rig.Execute(GuestDriver.Io(NvmOpcode.Read, 3, 1, rig.Memory.Allocate(4096))).Status);
    }

    private sealed class ErrorRig : IDisposable
    {
        private readonly ConcurrentQueue<string> _log = new();
        private readonly FakeHost _host;
        private readonly GuestDriver _driver;
        private readonly GuestQueue _queue;

        private ErrorRig(FileDescriptor file)
        {
            var log = new LogLimiter(_log.Enqueue);
            var options = new NvmeOptions { ImagePath = "test image", BlockSize = 512 };
            Controller = NvmeController.CreateOn(options, ImageFile.Adopt(file, "test image", 1 << 20, log), log);
            Memory = new GuestMemory(4 << 20);
            _host = new FakeHost(Memory);
            Controller.OnConnected(_host);
            _driver = new GuestDriver(Memory, new DirectRegisters(Controller), () => _host.TriggerCount, seen => _host.WaitForTrigger(seen));
            _driver.Enable();
            _queue = _driver.CreateQueue(1);
        }

        public NvmeController Controller { get; }

        public GuestMemory Memory { get; }

        public string AllLog => string.Join('\n', _log);

        public static ErrorRig OnSealedMemory(int seals)
        {
            FileDescriptor file = FileDescriptor.Adopt(mman.memfd_create("sealed", mman.MFD_CLOEXEC | mman.MFD_ALLOW_SEALING));
            Assert.Equal(0, unistd.ftruncate(file, 1 << 20));
            Assert.Equal(0, unistd.fcntl(file, unistd.F_ADD_SEALS, seals));
            return new ErrorRig(file);
        }

        public static ErrorRig OnDevice(string path)
        {
            int number = fcntl.open(path, fcntl.O_RDWR | fcntl.O_CLOEXEC, 0);
            Assert.True(number >= 0, path);
            return new ErrorRig(FileDescriptor.Adopt(number));
        }

        public Cqe Execute(Sqe command) => _driver.Execute(_queue, command);

        public void Dispose()
        {
            Controller.OnDisconnected();
            Controller.Dispose();
            Memory.Dispose();
            Assert.DoesNotContain("defect", AllLog, StringComparison.Ordinal);
        }
    }
}
