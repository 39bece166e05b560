namespace Godwit.Devices.Tests;

public class RegisterTests
{
    [Fact]
    public void CapabilitiesAndVersionSayWhatIsOffered()
    {
        using var rig = new NvmeRig(o => o with { QueueSize = 256 });
        ulong cap = rig.Driver.Read64(NvmeRegister.Capabilities);
        Assert.Equal(255UL, cap & 0xFFFF);
        Assert.Equal(1UL, (cap >> 16) & 1); // contiguous queues
        Assert.Equal(0UL, (cap >> 32) & 0xF); // doorbell stride
        Assert.Equal(1UL, (cap >> 37) & 0xFF); // NVM command set
        Assert.Equal(0UL, (cap >> 48) & 0xF);
        Assert.Equal(4UL, (cap >> 52) & 0xF);
        Assert.Equal(0x10400u, rig.Driver.Read32(NvmeRegister.Version));
        Assert.Equal(0u, rig.Driver.Status);
    }

    [Fact]
    public void RegistersCanBeReadInAnyPiece()
    {
        using var rig = new NvmeRig();
        Span<byte> all = stackalloc byte[0x40];
        rig.Driver.Registers.Read(0, 0, all);
        for (int offset = 0; offset < all.Length; offset++)
        {
            for (int length = 1; offset + length <= all.Length && length <= 8; length++)
            {
                byte[] piece = new byte[length];
                rig.Driver.Registers.Read(0, (ulong)offset, piece);
                Assert.Equal(all.Slice(offset, length).ToArray(), piece);
            }
        }
    }

    [Fact]
    public void EnableMakesReadyAndDisableMakesNotReady()
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        Assert.Equal(1u, rig.Driver.Status);
        rig.Driver.Write32(NvmeRegister.Configuration, 0);
        Assert.Equal(0u, rig.Driver.Status);
        rig.Driver.Enable();
        Assert.Equal(1u, rig.Driver.Status);
        rig.Driver.CreateQueue(1);
    }

    [Fact]
    public void AdminQueueRegistersStandFirmWhileEnabledAndSurviveDisable()
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        ulong asq = rig.Driver.Read64(NvmeRegister.AdminSubmissionBase);
        rig.Driver.Write64(NvmeRegister.AdminSubmissionBase, 0xDEAD_0000);
        rig.Driver.Write64(NvmeRegister.AdminCompletionBase, 0xDEAD_0000);
        rig.Driver.Write32(NvmeRegister.AdminQueueAttributes, 0);
        Assert.Equal(asq, rig.Driver.Read64(NvmeRegister.AdminSubmissionBase));
        rig.Driver.Write32(NvmeRegister.Configuration, 0);
        Assert.Equal(asq, rig.Driver.Read64(NvmeRegister.AdminSubmissionBase));
        Assert.Equal(0x001F_001Fu, rig.Driver.Read32(NvmeRegister.AdminQueueAttributes));
    }

    public static TheoryData<uint, uint, ulong, ulong, string> BadEnables => new()
    {
        { GuestDriver.ConfigurationFor(12) | (7u << 4), 0x001F_001F, 0x1_0000_0000, 0x1_0001_0000, "CSS" },
        { GuestDriver.ConfigurationFor(12) | (1u << 11), 0x001F_001F, 0x1_0000_0000, 0x1_0001_0000, "AMS" },
        { GuestDriver.ConfigurationFor(17), 0x001F_001F, 0x1_0000_0000, 0x1_0020_0000, "MPS" },
        { GuestDriver.ConfigurationFor(12), 0x001F_0000, 0x1_0000_0000, 0x1_0001_0000, "AQA" },
        { GuestDriver.ConfigurationFor(12), 0x0000_001F, 0x1_0000_0000, 0x1_0001_0000, "AQA" },
        { GuestDriver.ConfigurationFor(13), 0x001F_001F, 0x1_0000_1000, 0x1_0002_0000, "ASQ" },
        { GuestDriver.ConfigurationFor(12), 0x001F_0FFF, 0xFFFF_FFFF_FFFF_F000, 0x1_0002_0000, "ASQ" },
        { GuestDriver.ConfigurationFor(12), 0x0FFF_001F, 0x1_0002_0000, 0xFFFF_FFFF_FFFF_F000, "ACQ" },
    };

    [Theory]
    [MemberData(nameof(BadEnables))]
    public void NonsenseAtEnableIsFatalUntilReset(uint cc, uint aqa, ulong asq, ulong acq, string named)
    {
        using var rig = new NvmeRig();
        rig.Driver.Write32(NvmeRegister.AdminQueueAttributes, aqa);
        rig.Driver.Write64(NvmeRegister.AdminSubmissionBase, asq);
        rig.Driver.Write64(NvmeRegister.AdminCompletionBase, acq);
        rig.Driver.Write32(NvmeRegister.Configuration, cc);
        Assert.Equal(2u, rig.Driver.Status);
        Assert.Contains(named, rig.AllLog, StringComparison.Ordinal);
        rig.Driver.Write32(NvmeRegister.Configuration, 0);
        Assert.Equal(0u, rig.Driver.Status);
        rig.Driver.Enable();
        Assert.Equal(1u, rig.Driver.Status);
    }

    [Fact]
    public void BrokenAdminQueueMemoryIsFatal()
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        rig.Host.Holes.Add((rig.Driver.Admin.Submissions, 4096));
        rig.Driver.Submit(rig.Driver.Admin, default);
        WaitFatal(rig);
        rig.Host.Holes.Clear();
        rig.Driver.Write32(NvmeRegister.Configuration, 0);
        rig.Driver.Enable();
        rig.Driver.CreateQueue(1);
    }

    [Fact]
    public void BrokenCompletionQueueMemoryIsFatal()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        rig.Host.Holes.Add((queue.Completions, 4096));
        rig.Driver.Submit(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1));
        WaitFatal(rig);
        Assert.Contains("completion queue 1", rig.AllLog, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1u)]
    [InlineData(2u)]
    public void ShutdownFlushesAndCompletes(uint kind)
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        rig.Driver.Write32(NvmeRegister.Configuration, GuestDriver.ConfigurationFor(12) | (kind << 14));
        SpinWait.SpinUntil(() => (rig.Driver.Status >> 2) == 2, TimeSpan.FromSeconds(30));
        Assert.Equal(2u, rig.Driver.Status >> 2);
        rig.Driver.Write32(NvmeRegister.Configuration, 0);
        Assert.Equal(0u, rig.Driver.Status);
    }

    [Fact]
    public void FunctionLevelResetReturnsToPowerOn()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        rig.Driver.Write32(0x04, 0x406, region: 7);
        rig.Driver.Write32(PciIdentity.Express + 8, 0x8000, region: 7);
        Assert.Equal(0u, rig.Driver.Status);
        Assert.Equal(0UL, rig.Driver.Read64(NvmeRegister.AdminSubmissionBase));
        Assert.Equal(0x0010_0000u, rig.Driver.Read32(0x04, region: 7));
        rig.Driver.Enable();
        rig.Driver.CreateQueue(1);
        rig.Controller.Reset();
        Assert.Equal(0u, rig.Driver.Status);
        rig.Driver.Enable();
        rig.Driver.CreateQueue(1);
    }

    internal static void WaitFatal(NvmeRig rig)
    {
        SpinWait.SpinUntil(() => (rig.Driver.Status & 2) != 0, TimeSpan.FromSeconds(30));
        Assert.Equal(2u, rig.Driver.Status & 2);
    }
}
