using System.Buffers.Binary;
using System.Text;

namespace Godwit.Devices;

/// <summary>Migration data that cannot be taken: why, with value and limit.</summary>
internal sealed class NvmeStateException(string message) : Exception(message);

/// <summary>
/// The bytes that migrate: an identity record, then a state record. Each has a header of 16 bytes (magic, version, kind, payload length,
/// CRC-32C of all but itself) and, for given limits, a fixed length, so that sizes are exact and no length comes from the peer.
/// Little-endian.
/// </summary>
internal sealed class NvmeStateFormat(NvmeLimits limits, NvmeIdentity identity)
{
    private const uint Magic = 0x564E_5747; // "GWNV"
    private const ushort Version = 1;
    private const ushort IdentityKind = 1;
    private const ushort StateKind = 2;
    private const int HeaderSize = 16;
    private const int CrcOffset = 12;
    private const int SerialSize = 20;
    private const int IdentityPayload = SerialSize + 8 + (4 * 4);
    private const int QueueSize = 8 + (5 * 4);

    private readonly int _vectorWords = (limits.Vectors + 31) / 32;

    /// <summary>Bytes of the identity record.</summary>
    public static int IdentitySize => HeaderSize + IdentityPayload;

    /// <summary>Bytes of the state record.</summary>
    public int StateSize => HeaderSize + StatePayload;

    private int StatePayload =>
        (4 * 2) + (8 * 2) + (4 * 2)                                      // registers
        + 4 + (2 * 4) + 4 + (2 * 2) + 4 + (_vectorWords * 4)             // features
        + 4 + (IdentifyData.AsyncEventLimit * 2) + (AsyncEvents.PendingLimit * 4)
        + (6 * 8) + ErrorLog.Size
        + (limits.QueueSlots * 2 * QueueSize)
        + PciConfiguration.Used + (limits.Vectors * PciIdentity.MsixEntrySize);

    /// <summary>The identity record of this controller.</summary>
    public byte[] EncodeIdentity()
    {
        byte[] record = new byte[IdentitySize];
        Span<byte> serial = stackalloc byte[SerialSize];
        serial.Fill((byte)' ');
        Encoding.ASCII.GetBytes(identity.Serial, serial);
        var writer = new StateWriter(record.AsSpan(HeaderSize));
        writer.Bytes(serial);
        writer.U64(limits.ImageBytes);
        writer.U32(1u << limits.BlockShift);
        writer.U32((uint)limits.MaxQueues);
        writer.U32((uint)limits.QueueEntries);
        writer.U32((uint)limits.MaxTransfer);
        writer.End();
        Seal(record, IdentityKind);
        return record;
    }

    /// <summary>Checks a peer's identity record against this controller, every difference at once.</summary>
    /// <exception cref="NvmeStateException">It is damaged, of another version, or of a controller that is not like this one.</exception>
    public void CheckIdentity(ReadOnlySpan<byte> record)
    {
        var reader = new StateReader(Open(record, IdentityKind, IdentitySize, "identity"));
        Span<byte> serialBytes = stackalloc byte[SerialSize];
        reader.Bytes(serialBytes);
        // The text goes into a log line: nothing but printable characters of a peer's.
        foreach (ref byte value in serialBytes)
        {
            if (value is < 0x20 or > 0x7E)
                value = (byte)'?';
        }
        string serial = Encoding.ASCII.GetString(serialBytes).TrimEnd(' ');
        var differences = new List<string>();
        if (serial != identity.Serial)
            differences.Add($"serial number '{serial}' there, '{identity.Serial}' here");
        Compare("image size in bytes", reader.U64(), limits.ImageBytes);
        Compare("block size", reader.U32(), 1u << limits.BlockShift);
        Compare("queue limit", reader.U32(), (uint)limits.MaxQueues);
        Compare("queue size", reader.U32(), (uint)limits.QueueEntries);
        Compare("transfer limit", reader.U32(), (uint)limits.MaxTransfer);
        if (differences.Count > 0)
            throw new NvmeStateException("the source's controller is another one: " + string.Join("; ", differences));

        void Compare(string name, ulong there, ulong here)
        {
            if (there != here)
                differences.Add($"{name} {there} there, {here} here");
        }
    }

    /// <summary>The state record of <paramref name="state"/>.</summary>
    public byte[] EncodeState(NvmeSnapshot state)
    {
        byte[] record = new byte[StateSize];
        var writer = new StateWriter(record.AsSpan(HeaderSize));
        writer.U32(state.Configuration);
        writer.U32(state.AdminQueueAttributes);
        writer.U64(state.AdminSubmissionBase);
        writer.U64(state.AdminCompletionBase);
        writer.U32(state.InterruptMask);
        writer.U32((state.Ready ? 1u : 0) | (state.Fatal ? 2u : 0) | ((uint)state.Shutdown << 2));

        FeatureSnapshot features = state.Features;
        writer.U32(features.Arbitration);
        writer.U16(features.OverTemperature);
        writer.U16(features.UnderTemperature);
        writer.U16(features.ErrorRecovery);
        writer.U16(features.Coalescing);
        writer.U32((features.WriteCache ? 1u : 0) | (features.WriteAtomicityOff ? 2u : 0));
        writer.U16((ushort)features.SubmissionQueues);
        writer.U16((ushort)features.CompletionQueues);
        writer.U32(features.EnabledEvents);
        for (int word = 0; word < _vectorWords; word++)
        {
            uint bits = 0;
            for (int bit = 0; bit < 32 && (word * 32) + bit < limits.Vectors; bit++)
                bits |= features.VectorCoalescingOff[(word * 32) + bit] ? 1u << bit : 0;
            writer.U32(bits);
        }

        writer.U8((byte)state.Events.Held.Length);
        writer.U8((byte)state.Events.Pending.Length);
        writer.U8(state.Events.Masked);
        writer.U8(0);
        for (int i = 0; i < IdentifyData.AsyncEventLimit; i++)
            writer.U16(i < state.Events.Held.Length ? state.Events.Held[i] : (ushort)0);
        for (int i = 0; i < AsyncEvents.PendingLimit; i++)
            writer.U32(i < state.Events.Pending.Length ? state.Events.Pending[i] : 0);

        writer.U64((ulong)state.Health.ReadCommands);
        writer.U64((ulong)state.Health.WriteCommands);
        writer.U64((ulong)state.Health.BytesRead);
        writer.U64((ulong)state.Health.BytesWritten);
        writer.U64((ulong)state.Health.MediaErrors);
        writer.U64((ulong)state.Health.ErrorLogEntries);
        writer.Bytes(state.ErrorRing);

        foreach (SubmissionSnapshot? sq in state.Submissions)
        {
            writer.U64(sq?.Address ?? 0);
            writer.U32(sq is null ? 0 : 1u | ((uint)sq.Priority << 1));
            writer.U32((uint)(sq?.Completion ?? 0));
            writer.U32(sq?.Size ?? 0);
            writer.U32(sq?.Head ?? 0);
            writer.U32(sq?.Tail ?? 0);
        }
        foreach (CompletionSnapshot? cq in state.Completions)
        {
            writer.U64(cq?.Address ?? 0);
            writer.U32(cq is null ? 0 : 1u | (cq.Interrupts ? 2u : 0) | (cq.Phase ? 4u : 0));
            writer.U32(cq?.Vector ?? 0u);
            writer.U32(cq?.Size ?? 0);
            writer.U32(cq?.Head ?? 0);
            writer.U32(cq?.Tail ?? 0);
        }
        writer.Bytes(state.PciConfiguration);
        writer.Bytes(state.MsixTable);
        writer.End();
        Seal(record, StateKind);
        return record;
    }

    /// <summary>Reads and checks a peer's state record; nothing is applied.</summary>
    /// <exception cref="NvmeStateException">It is damaged, or no controller with these limits can be in such a state.</exception>
    public NvmeSnapshot DecodeState(ReadOnlySpan<byte> record, PciConfiguration configuration)
    {
        var reader = new StateReader(Open(record, StateKind, StateSize, "state"));
        uint cc = reader.U32();
        uint aqa = reader.U32();
        ulong asq = reader.U64();
        ulong acq = reader.U64();
        uint interruptMask = reader.U32();
        uint status = reader.U32();
        if (status >> 4 != 0 || status >> 2 == 3)
            throw new NvmeStateException($"controller status 0x{status:x} has unknown bits");

        var features = DecodeFeatures(ref reader);
        var events = DecodeEvents(ref reader);
        var health = new HealthCounters
        {
            ReadCommands = reader.Count("read commands"),
            WriteCommands = reader.Count("write commands"),
            BytesRead = reader.Count("bytes read"),
            BytesWritten = reader.Count("bytes written"),
            MediaErrors = reader.Count("media errors"),
            ErrorLogEntries = reader.Count("error log entries"),
        };
        byte[] errorRing = new byte[ErrorLog.Size];
        reader.Bytes(errorRing);

        var submissions = new SubmissionSnapshot?[limits.QueueSlots];
        for (int slot = 0; slot < submissions.Length; slot++)
            submissions[slot] = DecodeSubmission(ref reader, slot);
        var completions = new CompletionSnapshot?[limits.QueueSlots];
        for (int slot = 0; slot < completions.Length; slot++)
            completions[slot] = DecodeCompletion(ref reader, slot);

        byte[] pci = new byte[PciConfiguration.Used];
        reader.Bytes(pci);
        if (!configuration.Accepts(pci))
            throw new NvmeStateException("PCI configuration space differs in read-only bits");
        byte[] msix = new byte[limits.Vectors * PciIdentity.MsixEntrySize];
        reader.Bytes(msix);
        reader.End();

        var state = new NvmeSnapshot
        {
            Configuration = cc,
            AdminQueueAttributes = aqa,
            AdminSubmissionBase = asq,
            AdminCompletionBase = acq,
            InterruptMask = interruptMask,
            Ready = (status & 1) != 0,
            Fatal = (status & 2) != 0,
            Shutdown = (ShutdownStatus)(status >> 2),
            Features = features,
            Events = events,
            Health = health,
            ErrorRing = errorRing,
            Submissions = submissions,
            Completions = completions,
            PciConfiguration = pci,
            MsixTable = msix,
        };
        NvmeStateRules.Check(state, limits);
        return state;
    }

    private static void Seal(Span<byte> record, ushort kind)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(record, Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(record[4..], Version);
        BinaryPrimitives.WriteUInt16LittleEndian(record[6..], kind);
        BinaryPrimitives.WriteUInt32LittleEndian(record[8..], (uint)(record.Length - HeaderSize));
        BinaryPrimitives.WriteUInt32LittleEndian(record[CrcOffset..], Crc32C.Compute(record[..CrcOffset], record[HeaderSize..]));
    }

    private static ReadOnlySpan<byte> Open(ReadOnlySpan<byte> record, ushort kind, int size, string name)
    {
        if (record.Length < HeaderSize)
            throw new NvmeStateException($"{name} record is cut: {record.Length} of {size} bytes");
        uint magic = BinaryPrimitives.ReadUInt32LittleEndian(record);
        if (magic != Magic)
            throw new NvmeStateException($"{name} record starts with 0x{magic:x8}, not 0x{Magic:x8}: not a Godwit NVMe controller's");
        ushort version = BinaryPrimitives.ReadUInt16LittleEndian(record[4..]);
        if (version != Version)
            throw new NvmeStateException($"{name} record has version {version}, this server knows {Version}");
        ushort found = BinaryPrimitives.ReadUInt16LittleEndian(record[6..]);
        if (found != kind)
            throw new NvmeStateException($"{name} record (kind {kind}) expected, kind {found} found");
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(record[8..]);
        if (length != (uint)(size - HeaderSize))
            throw new NvmeStateException($"{name} record says {length} bytes, {size - HeaderSize} expected");
        if (record.Length != size)
            throw new NvmeStateException($"{name} record is cut: {record.Length} of {size} bytes");
        uint crc = BinaryPrimitives.ReadUInt32LittleEndian(record[CrcOffset..]);
        if (crc != Crc32C.Compute(record[..CrcOffset], record[HeaderSize..]))
            throw new NvmeStateException($"{name} record is damaged: its checksum is wrong");
        return record[HeaderSize..];
    }

    private FeatureSnapshot DecodeFeatures(ref StateReader reader)
    {
        uint arbitration = reader.U32();
        ushort over = reader.U16();
        ushort under = reader.U16();
        ushort recovery = reader.U16();
        ushort coalescing = reader.U16();
        uint flags = reader.U32();
        if (flags >> 2 != 0)
            throw new NvmeStateException($"feature flags 0x{flags:x} have unknown bits");
        int submissions = reader.U16();
        int completions = reader.U16();
        uint enabled = reader.U32();
        bool[] coalescingOff = new bool[limits.Vectors];
        for (int word = 0; word < _vectorWords; word++)
        {
            uint bits = reader.U32();
            for (int bit = 0; bit < 32; bit++, bits >>= 1)
            {
                int vector = (word * 32) + bit;
                if (vector < limits.Vectors)
                    coalescingOff[vector] = (bits & 1) != 0;
                else if ((bits & 1) != 0)
                    throw new NvmeStateException($"interrupt vector {vector} is configured, there are {limits.Vectors}");
            }
        }
        return new FeatureSnapshot
        {
            Arbitration = arbitration,
            OverTemperature = over,
            UnderTemperature = under,
            ErrorRecovery = recovery,
            Coalescing = coalescing,
            WriteCache = (flags & 1) != 0,
            WriteAtomicityOff = (flags & 2) != 0,
            SubmissionQueues = submissions,
            CompletionQueues = completions,
            EnabledEvents = enabled,
            VectorCoalescingOff = coalescingOff,
        };
    }

    private static AsyncEventState DecodeEvents(ref StateReader reader)
    {
        int heldCount = reader.U8();
        int pendingCount = reader.U8();
        byte masked = reader.U8();
        byte zero = reader.U8();
        if (heldCount > IdentifyData.AsyncEventLimit || pendingCount > AsyncEvents.PendingLimit || zero != 0)
            throw new NvmeStateException($"{heldCount} event requests and {pendingCount} events, the limits are {IdentifyData.AsyncEventLimit} and {AsyncEvents.PendingLimit}");
        ushort[] held = new ushort[heldCount];
        for (int i = 0; i < IdentifyData.AsyncEventLimit; i++)
        {
            ushort id = reader.U16();
            if (i >= heldCount)
                StateReader.RequireZero(id, "event request");
            else if (held.AsSpan(0, i).Contains(id))
                throw new NvmeStateException($"event request {id} is held twice");
            else
                held[i] = id;
        }
        uint[] pending = new uint[pendingCount];
        for (int i = 0; i < AsyncEvents.PendingLimit; i++)
        {
            uint value = reader.U32();
            if (i >= pendingCount)
                StateReader.RequireZero(value, "event");
            else
                pending[i] = value;
        }
        return new AsyncEventState(held, pending, masked);
    }

    private static SubmissionSnapshot? DecodeSubmission(ref StateReader reader, int slot)
    {
        ulong address = reader.U64();
        uint flags = reader.U32();
        uint completion = reader.U32();
        uint size = reader.U32();
        uint head = reader.U32();
        uint tail = reader.U32();
        if ((flags & 1) == 0)
        {
            StateReader.RequireZero(address | flags | completion | size | head | tail, $"submission queue {slot}, which does not exist");
            return null;
        }
        if (flags >> 3 != 0 || completion > int.MaxValue)
            throw new NvmeStateException($"submission queue {slot} has unknown flags 0x{flags:x} or completion queue {completion}");
        return new SubmissionSnapshot(address, size, head, tail, (int)completion, (byte)(flags >> 1));
    }

    private static CompletionSnapshot? DecodeCompletion(ref StateReader reader, int slot)
    {
        ulong address = reader.U64();
        uint flags = reader.U32();
        uint vector = reader.U32();
        uint size = reader.U32();
        uint head = reader.U32();
        uint tail = reader.U32();
        if ((flags & 1) == 0)
        {
            StateReader.RequireZero(address | flags | vector | size | head | tail, $"completion queue {slot}, which does not exist");
            return null;
        }
        if (flags >> 3 != 0 || vector > ushort.MaxValue)
            throw new NvmeStateException($"completion queue {slot} has unknown flags 0x{flags:x} or vector {vector}");
        return new CompletionSnapshot(address, size, head, tail, (ushort)vector, (flags & 2) != 0, (flags & 4) != 0);
    }
}
