using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.VfioUser;

/// <summary>A device's state on its way (specification, MIG_DATA_READ and MIG_DATA_WRITE).</summary>
internal static class StateChecks
{
    private const int Piece = 64 * 1024;

    /// <summary>More state than this is not carried here.</summary>
    private const int MaxState = 256 * 1024 * 1024;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("state.when", "state is read only while it is saved, and written only while it is resumed", static e =>
        {
            e.Migration();
            foreach (DeviceMigrationState state in (DeviceMigrationState[])[Running, Stop, Resuming])
            {
                ArcChecks.Set(e, state);
                e.Refused(Command.MigrationDataRead, $"MIG_DATA_READ in {state}", ReadBody(4096));
            }
            e.Get(Command.DeviceReset, "a reset", []);
            foreach (DeviceMigrationState state in (DeviceMigrationState[])[Running, Stop, StopCopy])
            {
                ArcChecks.Set(e, state);
                e.Refused(Command.MigrationDataWrite, $"MIG_DATA_WRITE in {state}", WriteBody(new byte[16]));
            }
        }),
        new("state.requests", "a read larger than argsz or max_data_xfer_size, and a write with less data than it says, is refused", static e =>
        {
            e.Migration();
            ArcChecks.Set(e, StopCopy);
            e.Refused(Command.MigrationDataRead, "a read of 4096 bytes with argsz 8", ExaminerPeer.Bytes(new MigrationDataBody { ArgSize = 8, Size = 4096 }));
            e.Refused(Command.MigrationDataRead, "a read of 4 GiB", ExaminerPeer.Bytes(new MigrationDataBody { ArgSize = uint.MaxValue, Size = uint.MaxValue }));
            e.Get(Command.DeviceReset, "a reset", []);
            ArcChecks.Set(e, Resuming);
            e.Refused(Command.MigrationDataWrite, "a write of 4096 bytes with 16", ExaminerPeer.Bytes(new MigrationDataBody { ArgSize = 8 + 4096, Size = 4096 }, new byte[16]));
        }),
        new("state.pre-copy", "state can be read in PRE_COPY, before the device stops, until there is no more for now", static e =>
        {
            if ((e.Migration() & MigrationSupport.PreCopy) == 0)
                throw Examination.Absent("the device offers no PRE_COPY");
            ArcChecks.Set(e, PreCopy);
            ReadAll(e);
            Examination.Require(ArcChecks.Get(e) == PreCopy, "reading changed the state");
        }),
        new("state.save", "in STOP_COPY there is state, it ends, and it is the same whether it is read in large or small pieces", static e =>
        {
            e.Migration();
            byte[] large = Save(e, Piece);
            byte[] small = Save(e, 1000);
            Examination.Require(large.Length > 0, "there is none");
            Examination.Require(large.AsSpan().SequenceEqual(small), $"{large.Length} bytes in large pieces, {small.Length} in small ones, or others");
        }),
        new("state.restore", "a saved state makes another instance (or the same after a reset) the same device: its configuration, its registers, and what it saves in its turn", Restore),
        new("state.damaged", "a state that ends early is refused, and after a reset the whole one is taken", Damaged),
    ];

    /// <summary>Stops the device and reads its state. It is reset afterwards.</summary>
    public static byte[] Save(Examination e, int piece = Piece)
    {
        e.Get(Command.DeviceReset, "a reset", []);
        ArcChecks.Set(e, StopCopy);
        byte[] state = ReadAll(e, piece);
        e.Get(Command.DeviceReset, "a reset", []);
        return state;
    }

    private static byte[] ReadAll(Examination e, int piece = Piece)
    {
        using var state = new MemoryStream();
        while (true)
        {
            MigrationDataBody reply = e.Get<MigrationDataBody>(Command.MigrationDataRead, "MIG_DATA_READ", ReadBody(piece), out byte[] data);
            Examination.Require(reply.Size <= (uint)piece && reply.Size <= (uint)data.Length, $"a read of {piece} bytes is answered with {data.Length} that say {reply.Size}");
            state.Write(data, 0, (int)reply.Size);
            Examination.Require(state.Length <= MaxState, $"there are more than {MaxState} bytes");
            if (reply.Size == 0)
                return state.ToArray();
        }
    }

    private static void Restore(Examination e)
    {
        e.Migration();
        e.Write(PciRegion.Config, 0x3C, [0x2A]); // something that is not as after a reset
        byte[] before = e.Read(PciRegion.Config, 0, 256);
        byte[] registers = [];
        if (IExaminerDriver.For(e) is { } driver)
        {
            driver.Mark();
            registers = ReadRegisters(e, driver);
        }
        ArcChecks.Set(e, StopCopy);
        byte[] state = ReadAll(e);
        if (e.Options.Second is not { } second)
        {
            e.Get(Command.DeviceReset, "a reset", []);
            Load(e, state, before, registers);
            return;
        }
        using var other = new Examination(e.Options with { Socket = second, Second = null });
        other.Settle();
        Load(other, state, before, registers);
    }

    private static void Load(Examination e, byte[] state, byte[] config, byte[] registers)
    {
        ArcChecks.Set(e, Resuming);
        Write(e, state);
        ArcChecks.Set(e, Stop);
        byte[] after = e.Read(PciRegion.Config, 0, 256);
        for (int i = 0; i < config.Length; i++)
            Examination.Require(config[i] == after[i], $"configuration space has 0x{after[i]:x2} instead of 0x{config[i]:x2} at 0x{i:x}");
        ArcChecks.Set(e, StopCopy);
        byte[] again = ReadAll(e);
        Examination.Require(again.AsSpan().SequenceEqual(state), $"restored from {state.Length} bytes it saves {again.Length}, or others");
        ArcChecks.Set(e, Running);
        if (IExaminerDriver.For(e) is { } driver)
            Examination.Require(ReadRegisters(e, driver).AsSpan().SequenceEqual(registers), "registers of BAR 0 do not have what they had");
    }

    private static byte[] ReadRegisters(Examination e, IExaminerDriver driver) => [.. driver.Marked.SelectMany(register => e.Read(0, register.Offset, register.Size))];

    private static void Damaged(Examination e)
    {
        e.Migration();
        byte[] state = Save(e, Piece);
        if (state.Length < 2)
            throw Examination.Absent($"the state has {state.Length} bytes");
        ArcChecks.Set(e, Resuming);
        Write(e, state.AsSpan(0, state.Length / 2));
        Examination.Require(ArcChecks.TrySet(e, Stop) != Errno.None, "half of the state is taken for all of it");
        e.Get(Command.DeviceReset, "a reset", []);
        ArcChecks.Set(e, Resuming);
        Write(e, state);
        ArcChecks.Set(e, Running);
    }

    /// <summary>Gives a device in RESUMING a state.</summary>
    public static void Write(Examination e, ReadOnlySpan<byte> state)
    {
        for (; !state.IsEmpty; state = state[Math.Min(state.Length, Piece)..])
            e.Get(Command.MigrationDataWrite, "MIG_DATA_WRITE of the device's own state", WriteBody(state[..Math.Min(state.Length, Piece)]));
    }

    private static byte[] ReadBody(int size) => ExaminerPeer.Bytes(
        new MigrationDataBody { ArgSize = (uint)(Unsafe.SizeOf<MigrationDataBody>() + size), Size = (uint)size });

    private static byte[] WriteBody(ReadOnlySpan<byte> data) => ExaminerPeer.Bytes(
        new MigrationDataBody { ArgSize = (uint)(Unsafe.SizeOf<MigrationDataBody>() + data.Length), Size = (uint)data.Length }, data);
}
