using System.Buffers.Binary;

namespace Godwit.Devices.Tests;

public class AdminCommandTests
{
    [Theory]
    [InlineData(0x03)]
    [InlineData(0x0D)]
    [InlineData(0x10)]
    [InlineData(0x18)]
    [InlineData(0x80)]
    [InlineData(0xFF)]
    public void UnknownOpcodesAreRefused(byte opcode)
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        Cqe completion = rig.Driver.Execute(new Sqe { Opcode = opcode });
        Assert.Equal(NvmeStatus.InvalidOpcode, completion.Status);
        Assert.True(completion.DoNotRetry);
    }

    [Theory]
    [InlineData(0x40)]
    [InlineData(0x80)]
    [InlineData(0x01)]
    [InlineData(0x02)]
    public void SglsAndFusedCommandsAreRefused(byte flags)
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        Sqe identify = GuestDriver.IdentifyCommand(1, 0, rig.Memory.Allocate(4096));
        identify.Flags = flags;
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(identify).Status);
        Sqe flush = GuestDriver.Io(NvmOpcode.Flush, 0, 1);
        flush.Flags = flags;
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(queue, flush).Status);
    }

    public static TheoryData<string, uint, uint, ulong, int> BadCompletionQueues => new()
    {
        { "queue 0", 0 | (15u << 16), 3, 0, (int)NvmeStatus.InvalidQueueIdentifier },
        { "beyond the limit", 9 | (15u << 16), 3, 0, (int)NvmeStatus.InvalidQueueIdentifier },
        { "exists", 1 | (15u << 16), 3, 0, (int)NvmeStatus.InvalidQueueIdentifier },
        { "one entry", 2, 3, 0, (int)NvmeStatus.InvalidQueueSize },
        { "too long", 2 | (1024u << 16), 3, 0, (int)NvmeStatus.InvalidQueueSize },
        { "not contiguous", 2 | (15u << 16), 2, 0, (int)NvmeStatus.InvalidField },
        { "offset", 2 | (15u << 16), 3, 0x10, (int)NvmeStatus.PrpOffsetInvalid },
        { "vector", 2 | (15u << 16), 3 | (9u << 16), 0, (int)NvmeStatus.InvalidInterruptVector },
    };

    [Theory]
    [MemberData(nameof(BadCompletionQueues))]
    public void BadCompletionQueuesAreRefused(string why, uint d10, uint d11, ulong offset, int status)
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        Cqe completion = rig.Driver.Execute(new Sqe
        {
            Opcode = (byte)AdminOpcode.CreateCompletionQueue,
            Prp1 = rig.Memory.Allocate(4096) + offset,
            D10 = d10,
            D11 = d11,
        });
        Assert.True((NvmeStatus)status == completion.Status, $"{why}: {completion}");
    }

    public static TheoryData<string, uint, uint, ulong, int> BadSubmissionQueues => new()
    {
        { "queue 0", 0 | (15u << 16), 1 | (1u << 16), 0, (int)NvmeStatus.InvalidQueueIdentifier },
        { "beyond the limit", 9 | (15u << 16), 1 | (1u << 16), 0, (int)NvmeStatus.InvalidQueueIdentifier },
        { "exists", 1 | (15u << 16), 1 | (1u << 16), 0, (int)NvmeStatus.InvalidQueueIdentifier },
        { "one entry", 2, 1 | (1u << 16), 0, (int)NvmeStatus.InvalidQueueSize },
        { "too long", 2 | (1024u << 16), 1 | (1u << 16), 0, (int)NvmeStatus.InvalidQueueSize },
        { "not contiguous", 2 | (15u << 16), 1u << 16, 0, (int)NvmeStatus.InvalidField },
        { "offset", 2 | (15u << 16), 1 | (1u << 16), 0x40, (int)NvmeStatus.PrpOffsetInvalid },
        { "admin completion queue", 2 | (15u << 16), 1, 0, (int)NvmeStatus.InvalidQueueIdentifier },
        { "completion queue beyond the limit", 2 | (15u << 16), 1 | (9u << 16), 0, (int)NvmeStatus.InvalidQueueIdentifier },
        { "no such completion queue", 2 | (15u << 16), 1 | (3u << 16), 0, (int)NvmeStatus.CompletionQueueInvalid },
    };

    [Theory]
    [MemberData(nameof(BadSubmissionQueues))]
    public void BadSubmissionQueuesAreRefused(string why, uint d10, uint d11, ulong offset, int status)
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        Cqe completion = rig.Driver.Execute(new Sqe
        {
            Opcode = (byte)AdminOpcode.CreateSubmissionQueue,
            Prp1 = rig.Memory.Allocate(4096) + offset,
            D10 = d10,
            D11 = d11,
        });
        Assert.True((NvmeStatus)status == completion.Status, $"{why}: {completion}");
    }

    [Fact]
    public void EntrySizesMustBeSetBeforeQueues()
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        rig.Driver.Write32(NvmeRegister.Configuration, 1);
        Cqe completion = rig.Driver.Execute(new Sqe
        {
            Opcode = (byte)AdminOpcode.CreateCompletionQueue,
            Prp1 = rig.Memory.Allocate(4096),
            D10 = 1 | (15u << 16),
            D11 = 3,
        });
        Assert.Equal(NvmeStatus.InvalidQueueSize, completion.Status);
    }

    [Fact]
    public void QueuesAreDeletedInOrderAndCanBeMadeAgain()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        Assert.Equal(NvmeStatus.InvalidQueueDeletion, Delete(AdminOpcode.DeleteCompletionQueue, 1));
        Assert.Equal(NvmeStatus.Success, Delete(AdminOpcode.DeleteSubmissionQueue, 1));
        Assert.Equal(NvmeStatus.InvalidQueueIdentifier, Delete(AdminOpcode.DeleteSubmissionQueue, 1));
        Assert.Equal(NvmeStatus.Success, Delete(AdminOpcode.DeleteCompletionQueue, 1));
        Assert.Equal(NvmeStatus.InvalidQueueIdentifier, Delete(AdminOpcode.DeleteCompletionQueue, 1));
        Assert.Equal(NvmeStatus.InvalidQueueIdentifier, Delete(AdminOpcode.DeleteSubmissionQueue, 0));
        Assert.Equal(NvmeStatus.InvalidQueueIdentifier, Delete(AdminOpcode.DeleteCompletionQueue, 0));
        Assert.Equal(NvmeStatus.InvalidQueueIdentifier, Delete(AdminOpcode.DeleteSubmissionQueue, 999));
        GuestQueue again = rig.Driver.CreateQueue(1);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(again, GuestDriver.Io(NvmOpcode.Flush, 0, 1)).Status);

        NvmeStatus Delete(AdminOpcode opcode, uint id) => rig.Driver.Execute(new Sqe { Opcode = (byte)opcode, D10 = id }).Status;
    }

    [Fact]
    public void NumberOfQueuesIsGrantedUpToTheLimitAndOnlyBeforeQueuesExist()
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        Assert.Equal(0x0007_0007u, rig.Driver.Succeed(Feature(AdminOpcode.GetFeatures, 7, 0)));
        Assert.Equal(0x0001_0002u, rig.Driver.Succeed(Feature(AdminOpcode.SetFeatures, 7, 0x0001_0002)));
        Assert.Equal(0x0001_0002u, rig.Driver.Succeed(Feature(AdminOpcode.GetFeatures, 7, 0)));
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(Feature(AdminOpcode.SetFeatures, 7, 0xFFFF_0001)).Status);
        rig.Driver.CreateQueue(2);
        Assert.Equal(
            NvmeStatus.InvalidQueueIdentifier,
            rig.Driver.Execute(new Sqe { Opcode = (byte)AdminOpcode.CreateCompletionQueue, Prp1 = rig.Memory.Allocate(4096), D10 = 3 | (15u << 16), D11 = 3 }).Status);
        Assert.Equal(NvmeStatus.CommandSequenceError, rig.Driver.Execute(Feature(AdminOpcode.SetFeatures, 7, 0x0007_0007)).Status);
        rig.Driver.Write32(NvmeRegister.Configuration, 0);
        rig.Driver.Enable();
        Assert.Equal(0x0007_0007u, rig.Driver.Succeed(Feature(AdminOpcode.SetFeatures, 7, 0x00FF_00FF)));
    }

    public static TheoryData<byte, uint, uint, uint> Features => new()
    {
        { 0x01, 0x0102_0304, 0, 0x0102_0304 },
        { 0x02, 0, 0, 0 },
        { 0x04, 350, 0, 350 },
        { 0x04, (1u << 20) | 250, 1u << 20, 250 },
        { 0x05, 77, 0, 77 },
        { 0x06, 0, 0, 0 },
        { 0x06, 1, 0, 1 },
        { 0x08, 0x0A0B, 0, 0x0A0B },
        { 0x09, (1u << 16) | 3, 3, (1u << 16) | 3 },
        { 0x0A, 1, 0, 1 },
        { 0x0B, 0x1F, 0, 0x1F },
    };

    [Theory]
    [MemberData(nameof(Features))]
    public void FeaturesKeepWhatIsSetUntilReset(byte feature, uint set, uint select, uint expected)
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        uint before = rig.Driver.Succeed(Feature(AdminOpcode.GetFeatures, feature, select));
        rig.Driver.Succeed(Feature(AdminOpcode.SetFeatures, feature, set));
        Assert.Equal(expected, rig.Driver.Succeed(Feature(AdminOpcode.GetFeatures, feature, select)));
        rig.Driver.Write32(NvmeRegister.Configuration, 0);
        rig.Driver.Enable();
        Assert.Equal(before, rig.Driver.Succeed(Feature(AdminOpcode.GetFeatures, feature, select)));
    }

    [Theory]
    [InlineData(0x00, 0u)]
    [InlineData(0x03, 0u)]
    [InlineData(0x0C, 0u)]
    [InlineData(0x7F, 0u)]
    [InlineData(0x02, 1u)]         // a power state that is not there
    [InlineData(0x04, 1u << 16)]   // a sensor that is not there
    [InlineData(0x04, 2u << 20)]
    [InlineData(0x05, 1u << 16)]   // DULBE
    [InlineData(0x09, 9u)]         // a vector that is not there
    public void BadFeaturesAreRefused(byte feature, uint value)
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(Feature(AdminOpcode.SetFeatures, feature, value)).Status);
    }

    [Fact]
    public void SavingAndSelectingFeaturesIsNotOffered()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        Assert.Equal(NvmeStatus.FeatureNotSaveable, rig.Driver.Execute(Feature(AdminOpcode.SetFeatures, 6, 1) with { D10 = 6 | (1u << 31) }).Status);
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(Feature(AdminOpcode.GetFeatures, 6, 0) with { D10 = 6 | (1u << 8) }).Status);
    }

    [Fact]
    public void ErrorLogTellsFailuresNewestFirst()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        rig.Driver.Execute(new Sqe { Opcode = 0xFF });
        ushort id = rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0x1234_5678, 1, rig.Memory.Allocate(4096))).Id;
        ulong page = rig.Memory.Allocate(4096);
        rig.Driver.Succeed(Log(NvmeLogPage.ErrorInformation, 4096, page));
        ReadOnlySpan<byte> data = rig.Memory.Span(page, 4096);
        Assert.Equal(2UL, BinaryPrimitives.ReadUInt64LittleEndian(data));
        Assert.Equal(1, BinaryPrimitives.ReadUInt16LittleEndian(data[8..]));
        Assert.Equal(id, BinaryPrimitives.ReadUInt16LittleEndian(data[10..]));
        Assert.Equal((ushort)NvmeStatus.LbaOutOfRange, (BinaryPrimitives.ReadUInt16LittleEndian(data[12..]) >> 1) & 0x7FF);
        Assert.Equal(0x1234_5678UL, BinaryPrimitives.ReadUInt64LittleEndian(data[16..]));
        Assert.Equal(1u, BinaryPrimitives.ReadUInt32LittleEndian(data[24..]));
        Assert.Equal(1UL, BinaryPrimitives.ReadUInt64LittleEndian(data[64..]));
        Assert.Equal(0, BinaryPrimitives.ReadUInt16LittleEndian(data[72..]));
        Assert.Equal(0UL, BinaryPrimitives.ReadUInt64LittleEndian(data[128..]));

        // Sixteen more push the oldest out.
        for (int i = 0; i < 16; i++)
            rig.Driver.Execute(new Sqe { Opcode = 0xFE });
        rig.Driver.Succeed(Log(NvmeLogPage.ErrorInformation, 1024, page));
        Assert.Equal(18UL, BinaryPrimitives.ReadUInt64LittleEndian(data));
        Assert.Equal(3UL, BinaryPrimitives.ReadUInt64LittleEndian(data[(15 * 64)..]));
    }

    [Fact]
    public void HealthLogCounts()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong page = rig.Memory.Allocate(4096);
        rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 0, 8, page));
        rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, page));
        rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, page));
        rig.Driver.Succeed(Log(NvmeLogPage.Health, 512, page));
        ReadOnlySpan<byte> data = rig.Memory.Span(page, 512);
        Assert.Equal(0, data[0]);
        Assert.InRange(BinaryPrimitives.ReadUInt16LittleEndian(data[1..]), 250, 350);
        Assert.Equal(1L, BinaryPrimitives.ReadInt64LittleEndian(data[32..]));
        Assert.Equal(1L, BinaryPrimitives.ReadInt64LittleEndian(data[48..]));
        Assert.Equal(2L, BinaryPrimitives.ReadInt64LittleEndian(data[64..]));
        Assert.Equal(1L, BinaryPrimitives.ReadInt64LittleEndian(data[80..]));
    }

    [Fact]
    public void LogPagesHaveOffsetsAndAreCutToTheirSize()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        ulong page = rig.Memory.Allocate(4096);
        rig.Driver.Succeed(Log(NvmeLogPage.CommandsSupported, 4096, page));
        byte[] whole = rig.Memory.Span(page, 4096).ToArray();
        Assert.Equal(1, whole[(int)AdminOpcode.Identify * 4]);
        Assert.Equal(3, whole[1024 + ((int)NvmOpcode.Write * 4)]);
        rig.Memory.Span(page, 4096).Fill(0xEE);
        rig.Driver.Succeed(Log(NvmeLogPage.CommandsSupported, 4096, page) with { D12 = 1024 });
        Assert.Equal(whole.AsSpan(1024), rig.Memory.Span(page, 3072));
        Assert.Equal(0xEE, rig.Memory.Span(page + 3072, 1)[0]);

        rig.Driver.Succeed(Log(NvmeLogPage.FirmwareSlot, 512, page));
        Assert.Equal(1, rig.Memory.Span(page, 1)[0]);

        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(Log(NvmeLogPage.Health, 512, page) with { D12 = 2 }).Status);
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(Log(NvmeLogPage.Health, 512, page) with { D12 = 516 }).Status);
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(Log(NvmeLogPage.Health, 512, page) with { D13 = 1 }).Status);
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(Log(NvmeLogPage.Health, 512, page) with { D11 = 0xFFFF }).Status);
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(Log(NvmeLogPage.Health, 512, page) with { Nsid = 1 }).Status);
        Assert.Equal(NvmeStatus.InvalidLogPage, rig.Driver.Execute(Log((NvmeLogPage)0x70, 512, page)).Status);
    }

    [Fact]
    public void DmaFailureOfAnAdminCommandIsATransferError()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        Cqe completion = rig.Driver.Execute(GuestDriver.IdentifyCommand(1, 0, rig.Memory.End));
        Assert.Equal(NvmeStatus.DataTransferError, completion.Status);
        Assert.False(completion.DoNotRetry);
        Assert.Equal(1u, rig.Driver.Status);
        Assert.Contains("cannot be accessed", rig.AllLog, StringComparison.Ordinal);
    }

    internal static Sqe Feature(AdminOpcode opcode, byte feature, uint value) => new() { Opcode = (byte)opcode, D10 = feature, D11 = value };

    internal static Sqe Log(NvmeLogPage page, int bytes, ulong address) => new()
    {
        Opcode = (byte)AdminOpcode.GetLogPage,
        Nsid = 0xFFFF_FFFF,
        Prp1 = address,
        D10 = (uint)page | (uint)((bytes / 4) - 1) << 16,
    };
}
