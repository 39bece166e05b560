using System.Buffers.Binary;
using Godwit.Interop.Linux;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices.Tests;

public class StateFormatTests
{
    private const int Header = 16;

    [Fact]
    public void ChecksumIsCrc32C()
    {
        // RFC 3720, B.4, and the check value of CRC-32/ISCSI.
        Assert.Equal(0x8A9136AAu, Crc32C.Compute(new byte[32], []));
        Assert.Equal(0xE3069283u, Crc32C.Compute("1234"u8, "56789"u8));
        Assert.Equal(0x46DD794Eu, Crc32C.Compute([.. Enumerable.Range(0, 32).Select(i => (byte)i)], []));
    }

    public static TheoryData<string, string> Differences => new()
    {
        { "serial", "serial number 'OTHER' there, 'TEST-1' here" },
        { "queues", "queue limit 9 there, 8 here" },
        { "entries", "queue size 512 there, 1024 here" },
        { "transfer", "transfer limit 65536 there, 1048576 here" },
        { "block", "block size 4096 there, 512 here" },
    };

    [Theory]
    [MemberData(nameof(Differences))]
    public void AnotherControllersDataIsRefusedAtOnceAndNamesTheDifference(string what, string expected)
    {
        using var image = new TempImage();
        using var source = new NvmeRig(
            o => what switch
            {
                "serial" => o with { Serial = "OTHER" },
                "queues" => o with { MaxQueues = 9 },
                "entries" => o with { QueueSize = 512 },
                "transfer" => o with { MaxTransfer = 65536 },
                _ => o with { BlockSize = 4096 },
            },
            image);
        using var destination = new NvmeRig(image: image);
        source.Go(Running, PreCopy);
        destination.Go(Running, RunningP2P, Stop, Resuming);
        byte[] identity = MigrationTests.ReadAll(source.Controller);
        Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(identity.AsSpan(0, identity.Length - 1)));
        Assert.Equal(Errno.EINVAL, destination.Controller.WriteMigrationData(identity.AsSpan(identity.Length - 1)));
        Assert.Contains(expected, destination.AllLog, StringComparison.Ordinal);
        Assert.Equal(Errno.EINVAL, destination.Controller.WriteMigrationData([0]));
        Assert.Equal(Errno.EINVAL, destination.Controller.Transition(Resuming, Stop));
    }

    [Fact]
    public void AnImageOfAnotherSizeIsRefused()
    {
        using var small = new TempImage(1 << 20);
        using var large = new TempImage(2 << 20);
        using var source = new NvmeRig(image: small);
        using var destination = new NvmeRig(image: large);
        source.Go(Running, PreCopy);
        destination.Go(Running, RunningP2P, Stop, Resuming);
        Assert.Equal(Errno.EINVAL, destination.Controller.WriteMigrationData(MigrationTests.ReadAll(source.Controller)));
        Assert.Contains("image size in bytes 1048576 there, 2097152 here", destination.AllLog, StringComparison.Ordinal);
    }

    [Fact]
    public void CutAndOverlongStreamsAreRefusedAndACutOneCanBeContinued()
    {
        using var image = new TempImage();
        byte[] stream = StreamOf(image);
        using var destination = new NvmeRig(image: image);
        destination.Go(Running, RunningP2P, Stop, Resuming);
        Assert.Equal(Errno.EINVAL, destination.Controller.Transition(Resuming, Stop)); // nothing came
        Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(stream.AsSpan(0, stream.Length - 1)));
        Assert.Equal(Errno.EINVAL, destination.Controller.Transition(Resuming, Stop));
        Assert.Contains($"{stream.Length - 1} of {stream.Length} bytes came", destination.AllLog, StringComparison.Ordinal);
        Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(stream.AsSpan(stream.Length - 1)));
        Assert.Equal(Errno.E2BIG, destination.Controller.WriteMigrationData([0]));
        Assert.Equal(Errno.EINVAL, destination.Controller.Transition(Resuming, Stop)); // it was told more than there is

        using var second = new NvmeRig(image: image);
        second.Go(Running, RunningP2P, Stop, Resuming);
        Assert.Equal(Errno.None, second.Controller.WriteMigrationData(stream));
        second.Go(Resuming, Stop);
    }

    [Fact]
    public void EveryFlippedBitIsNoticedAndLeavesNoTrace()
    {
        using var image = new TempImage();
        byte[] stream = StreamOf(image);
        using var destination = new NvmeRig(image: image);
        destination.Go(Running, RunningP2P, Stop);
        byte[] bar = MigrationTests.Region(destination, PciRegion.Bar0, PciIdentity.Bar0Size);
        int seed = Environment.TickCount;
        var random = new Random(seed);
        for (int round = 0; round < 500; round++)
        {
            int bit = random.Next(stream.Length * 8);
            byte[] damaged = (byte[])stream.Clone();
            damaged[bit / 8] ^= (byte)(1 << (bit % 8));
            destination.Go(Stop, Resuming);
            Errno written = destination.Controller.WriteMigrationData(damaged);
            Assert.True(written == (bit / 8 < NvmeStateFormat.IdentitySize ? Errno.EINVAL : Errno.None), $"seed {seed} bit {bit}: {written}");
            Assert.True(destination.Controller.Transition(Resuming, Stop) == Errno.EINVAL, $"seed {seed} bit {bit} was taken");
            destination.Controller.Reset();
            destination.Go(Running, RunningP2P, Stop);
        }
        Assert.Equal(bar, MigrationTests.Region(destination, PciRegion.Bar0, PciIdentity.Bar0Size));
    }

    /// <summary>Damage with a right checksum: a peer that lies. Whatever is taken must be a state that works and can be saved again.</summary>
    [Fact]
    public void StatesOfALyingPeerAreRefusedOrHarmless()
    {
        using var image = new TempImage();
        using var memory = new GuestMemory(4 << 20);
        byte[] stream = StreamOf(image);
        int seed = Environment.TickCount;
        var random = new Random(seed);
        int taken = 0, refused = 0;
        using var destination = new NvmeRig(image: image, memory: memory);
        for (int round = 0; round < 1500; round++)
        {
            byte[] hostile = (byte[])stream.Clone();
            for (int i = random.Next(1, 4); i > 0; i--)
                Mutate(hostile, random);
            Reseal(hostile);
            destination.Go(Running, RunningP2P, Stop, Resuming);
            Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(hostile));
            byte[] before = MigrationTests.Region(destination, PciRegion.Bar0, PciIdentity.Bar0Size);
            if (destination.Controller.Transition(Resuming, Stop) != Errno.None)
            {
                refused++;
                Assert.True(before.AsSpan().SequenceEqual(MigrationTests.Region(destination, PciRegion.Bar0, PciIdentity.Bar0Size)), $"seed {seed} round {round}");
            }
            else
            {
                taken++;
                destination.Go(Stop, StopCopy);
                Assert.True(MigrationTests.ReadAll(destination.Controller).AsSpan().SequenceEqual(hostile), $"seed {seed} round {round}: saved differently");
                destination.Go(StopCopy, Stop, RunningP2P, Running);
                for (int queue = 0; queue < 9; queue++)
                {
                    destination.Driver.Write32(NvmeRegister.Doorbells + (queue * 8), (uint)random.Next(20));
                    destination.Driver.Write32(NvmeRegister.Doorbells + (queue * 8) + 4, (uint)random.Next(20));
                }
            }
            destination.Controller.Reset();
        }
        Assert.True(taken > 50 && refused > 50, $"seed {seed}: taken {taken}, refused {refused}");
    }

    public static TheoryData<string, int, uint, string> Lies => new()
    {
        // Offsets follow NvmeStateFormat; queue slots of 28 bytes after the error log.
        { "reserved bits of CC", 0, 0xFF46_0001, "CC" },
        { "ready but not enabled", 0, 0x0046_0000, "not enabled" },
        { "status bits", 28, 0x10, "unknown bits" },
        { "shutdown state", 28, 0xD, "unknown bits" },
        { "more queues than there are", 48, 0x0009_0009, "outside 1 to 8" },
        { "no queues", 48, 0, "outside 1 to 8" },
        { "held requests", 60, 5, "limits are 4 and 8" },
    };

    [Theory]
    [MemberData(nameof(Lies))]
    public void RulesNameWhatIsWrong(string what, int offset, uint value, string expected)
    {
        using var image = new TempImage();
        byte[] stream = StreamOf(image);
        BinaryPrimitives.WriteUInt32LittleEndian(stream.AsSpan(NvmeStateFormat.IdentitySize + Header + offset), value);
        Reseal(stream);
        using var destination = new NvmeRig(image: image);
        destination.Go(Running, RunningP2P, Stop, Resuming);
        Assert.Equal(Errno.None, destination.Controller.WriteMigrationData(stream));
        Assert.Equal(Errno.EINVAL, destination.Controller.Transition(Resuming, Stop));
        Assert.True(destination.AllLog.Contains(expected, StringComparison.Ordinal), $"{what}: {destination.AllLog}");
    }

    public static TheoryData<string> SnapshotLies => ["size", "head", "tail", "address", "wrap", "completion", "admin completion", "vector", "slot", "no admin", "moved admin", "queues without ready"];

    [Theory]
    [MemberData(nameof(SnapshotLies))]
    public void QueueRulesAreChecked(string what)
    {
        using var image = new TempImage();
        using NvmeRig rig = new(image: image);
        rig.Driver.Enable();
        rig.Driver.CreateQueue(1);
        rig.Go(Running, RunningP2P, Stop);
        var state = NvmeSnapshot.Capture(rig.Controller.Core, new PciConfiguration(9), new byte[9 * 16]);
        NvmeStateRules.Check(state, rig.Controller.Core.Limits);
        SubmissionSnapshot sq = state.Submissions[1]!;
        CompletionSnapshot cq = state.Completions[1]!;
        switch (what)
        {
            case "size": state.Submissions[1] = sq with { Size = 1025 }; break;
            case "head": state.Submissions[1] = sq with { Head = sq.Size }; break;
            case "tail": state.Completions[1] = cq with { Tail = cq.Size }; break;
            case "address": state.Completions[1] = cq with { Address = cq.Address + 16 }; break;
            case "wrap": state.Submissions[1] = sq with { Address = ulong.MaxValue - 0xFFF, Size = 65 }; break;
            case "completion": state.Submissions[1] = sq with { Completion = 2 }; break;
            case "admin completion": state.Submissions[1] = sq with { Completion = 0 }; break;
            case "vector": state.Completions[1] = cq with { Vector = 9 }; break;
            case "slot":
                state = state with { Features = state.Features with { SubmissionQueues = 1 } };
                state.Submissions[2] = sq;
                break;
            case "no admin": state.Submissions[0] = null; break;
            case "moved admin": state.Completions[0] = state.Completions[0]! with { Address = 0x1000 }; break;
            default: state = state with { Ready = false }; break;
        }
        Assert.Throws<NvmeStateException>(() => NvmeStateRules.Check(state, rig.Controller.Core.Limits));
    }

    private static byte[] StreamOf(TempImage image)
    {
        using var memory = new GuestMemory(4 << 20);
        using var source = new NvmeRig(image: image, memory: memory);
        source.Driver.Enable();
        GuestQueue queue = source.Driver.CreateQueue(1);
        source.Driver.CreateQueue(2, shared: queue);
        source.Driver.Submit(source.Driver.Admin, new Sqe { Opcode = (byte)AdminOpcode.AsyncEventRequest });
        source.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1));
        source.Go(Running, RunningP2P, Stop, StopCopy);
        byte[] stream = MigrationTests.ReadAll(source.Controller);
        source.Go(StopCopy, Stop);
        return stream;
    }

    private static void Mutate(byte[] stream, Random random)
    {
        int at = NvmeStateFormat.IdentitySize + Header + random.Next(stream.Length - NvmeStateFormat.IdentitySize - Header);
        // Mostly the registers and queues; the error log and MSI-X table take anything.
        if (random.Next(2) == 0)
            at = NvmeStateFormat.IdentitySize + Header + random.Next(160);
        switch (random.Next(3))
        {
            case 0: stream[at] ^= (byte)(1 << random.Next(8)); break;
            case 1: stream[at] = (byte)random.Next(256); break;
            default: stream.AsSpan(at, Math.Min(random.Next(1, 9), stream.Length - at)).Fill((byte)(random.Next(2) * 255)); break;
        }
    }

    private static void Reseal(byte[] stream)
    {
        Span<byte> record = stream.AsSpan(NvmeStateFormat.IdentitySize);
        BinaryPrimitives.WriteUInt32LittleEndian(record[12..], Crc32C.Compute(record[..12], record[Header..]));
    }
}
