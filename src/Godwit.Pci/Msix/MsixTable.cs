using System.Buffers.Binary;
using Godwit.Memory;
using Godwit.Pci.Spec;

namespace Godwit.Pci;

/// <summary>
/// MSI-X of a function: table and PBA in VMM memory, masks, pending bits. Sends by a 32-bit write to the message address in the
/// function's bus-master space with its requester id, so that a vIOMMU sees it (PCI Local Bus 3.0, 6.8.2). All members but
/// <see cref="AddCapability"/> may be called from any thread; messages are sent and the function is told without a lock held.
/// </summary>
public sealed class MsixTable
{
    private const int EntryWords = MsixCapability.EntrySize / 4;

    private readonly PciFunction _function;
    private readonly Lock _lock = new();
    private readonly uint[] _entries;
    private readonly ulong[] _pending;
    private int _capability;
    private bool _enabled;
    private bool _functionMask;
    private bool _sending;
    private bool _sendAgain;

    /// <summary>Creates <paramref name="vectors"/> masked entries for <paramref name="function"/>, which has no table yet.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Not 1 to 2048 vectors.</exception>
    public MsixTable(PciFunction function, int vectors)
    {
        ArgumentNullException.ThrowIfNull(function);
        if (vectors is < 1 or > MsixCapability.MaxVectors)
            throw new ArgumentOutOfRangeException(nameof(vectors), vectors, $"{function.Name}: MSI-X has 1 to {MsixCapability.MaxVectors} vectors");
        _function = function;
        Vectors = vectors;
        _entries = new uint[vectors * EntryWords];
        _pending = new ulong[(vectors + 63) / 64];
        // 6.8.2: table and PBA are accessed by aligned double or quad words.
        var rules = new MmioAccessRules(4, 8, false);
        TableRegion = new MmioRegion($"{function.Name} msix table", (ulong)_entries.Length * 4, new Table(this), rules);
        PendingRegion = new MmioRegion($"{function.Name} msix pba", (ulong)_pending.Length * 8, new PendingBits(this), rules);
        MaskAll();
        function.SetMsix(this);
    }

    /// <summary>Number of vectors.</summary>
    public int Vectors { get; }

    /// <summary>Table registers, 16 bytes a vector, to be placed in a BAR.</summary>
    public MmioRegion TableRegion { get; }

    /// <summary>Pending bits, to be placed in a BAR.</summary>
    public MmioRegion PendingRegion { get; }

    /// <summary>MSI-X Enable of the capability, as last written.</summary>
    public bool Enabled => Volatile.Read(ref _enabled);

    internal int StateBytes => (_entries.Length * 4) + (_pending.Length * 8);

    /// <summary>
    /// Adds the capability (PCI Express 5.0, 7.7.2) to the function's list, pointing at where the caller places the regions: BAR numbers and
    /// offsets (multiples of 8) in them. Returns its offset. Once, before the function is plugged or in its OnAttached.
    /// </summary>
    public int AddCapability(int tableBar, uint tableOffset, int pendingBar, uint pendingOffset, int? at = null)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)tableBar, 5u, nameof(tableBar));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)pendingBar, 5u, nameof(pendingBar));
        ArgumentOutOfRangeException.ThrowIfNotEqual(tableOffset % 8, 0u, nameof(tableOffset));
        ArgumentOutOfRangeException.ThrowIfNotEqual(pendingOffset % 8, 0u, nameof(pendingOffset));
        if (_capability != 0)
            throw new InvalidOperationException($"{_function.Name} has its MSI-X capability already");
        _capability = _function.Config.AddCapability(CapabilityId.Msix, MsixCapability.Length, at);
        _function.Config.Define(_capability + MsixCapability.MessageControl, 2, (uint)(Vectors - 1), MsixCapability.Enable | MsixCapability.FunctionMask);
        _function.Config.Define(_capability + MsixCapability.TableOffset, 4, tableOffset | (uint)tableBar);
        _function.Config.Define(_capability + MsixCapability.PendingOffset, 4, pendingOffset | (uint)pendingBar);
        return _capability;
    }

    /// <summary>Whether a message of <paramref name="vector"/> would wait: MSI-X off, the function or the vector masked.</summary>
    public bool IsMasked(int vector)
    {
        Check(vector);
        lock (_lock)
            return Blocked(vector);
    }

    /// <summary>Whether <paramref name="vector"/> waits to be unmasked.</summary>
    public bool IsPending(int vector)
    {
        Check(vector);
        lock (_lock)
            return (_pending[vector / 64] >> (vector % 64) & 1) != 0;
    }

    /// <summary>Raises <paramref name="vector"/>: sent now, or pending while masked. Lost while bus mastering is off, as on hardware.</summary>
    /// <exception cref="ArgumentOutOfRangeException">No such vector.</exception>
    public void Raise(int vector)
    {
        Check(vector);
        ulong address;
        uint data;
        lock (_lock)
        {
            if (Blocked(vector))
            {
                _pending[vector / 64] |= 1UL << (vector % 64);
                return;
            }

            (address, data) = Message(vector);
        }

        _function.SendMessage(address, data);
    }

    /// <summary>The capability's control register may have changed.</summary>
    internal void ControlWritten()
    {
        if (_capability == 0)
            return;
        lock (_lock)
        {
            uint control = _function.Config.Read(_capability + MsixCapability.MessageControl, 2);
            bool enabled = (control & MsixCapability.Enable) != 0;
            bool masked = (control & MsixCapability.FunctionMask) != 0;
            if (enabled == _enabled && masked == _functionMask)
                return;
            Volatile.Write(ref _enabled, enabled);
            _functionMask = masked;
        }

        _function.OnMsixControlChanged();
        SendPending();
    }

    /// <summary>Power-on state: all masked, nothing pending.</summary>
    internal void Reset()
    {
        lock (_lock)
        {
            MaskAll();
            Array.Clear(_pending);
        }

        ControlWritten();
        for (int vector = 0; vector < Vectors; vector++)
            _function.OnMsixVectorChanged(vector);
    }

    internal void Save(Span<byte> state)
    {
        lock (_lock)
        {
            foreach (uint word in _entries)
            {
                BinaryPrimitives.WriteUInt32LittleEndian(state, word);
                state = state[4..];
            }

            foreach (ulong word in _pending)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(state, word);
                state = state[8..];
            }
        }
    }

    /// <summary>Loads what <see cref="Save"/> wrote, of exactly <see cref="StateBytes"/> bytes. Control comes with configuration space.</summary>
    internal void Load(ReadOnlySpan<byte> state)
    {
        lock (_lock)
        {
            for (int word = 0; word < _entries.Length; word++)
                _entries[word] = BinaryPrimitives.ReadUInt32LittleEndian(state[(word * 4)..]) & WritableBits(word);
            for (int word = 0; word < _pending.Length; word++)
                _pending[word] = BinaryPrimitives.ReadUInt64LittleEndian(state[((_entries.Length * 4) + (word * 8))..]);
            if (Vectors % 64 != 0)
                _pending[^1] &= (1UL << (Vectors % 64)) - 1;
        }

        ControlWritten();
        for (int vector = 0; vector < Vectors; vector++)
            _function.OnMsixVectorChanged(vector);
    }

    // Message address bits 1:0 are 0 (7.7.2.5); of vector control only the mask bit exists (7.7.2.8).
    private static uint WritableBits(int word) => (word % EntryWords) switch
    {
        0 => ~3u,
        3 => MsixCapability.VectorMasked,
        _ => uint.MaxValue,
    };

    private void MaskAll()
    {
        Array.Clear(_entries);
        for (int vector = 0; vector < Vectors; vector++)
            _entries[(vector * EntryWords) + 3] = MsixCapability.VectorMasked;
    }

    private bool Blocked(int vector) =>
        !_enabled || _functionMask || (_entries[(vector * EntryWords) + 3] & MsixCapability.VectorMasked) != 0;

    private (ulong Address, uint Data) Message(int vector)
    {
        int word = vector * EntryWords;
        return (_entries[word] | ((ulong)_entries[word + 1] << 32), _entries[word + 2]);
    }

    private void WriteEntry(int word, uint value)
    {
        int vector = word / EntryWords;
        lock (_lock)
        {
            uint masked = value & WritableBits(word);
            if (_entries[word] == masked)
                return;
            _entries[word] = masked;
        }

        _function.OnMsixVectorChanged(vector);
        SendPending();
    }

    /// <summary>
    /// Sends what is pending and no longer masked. A message may itself write this table (a guest can aim it there), so a nested call only
    /// asks the outer one to look again: the stack stays flat.
    /// </summary>
    private void SendPending()
    {
        lock (_lock)
        {
            _sendAgain = true;
            if (_sending)
                return;
            _sending = true;
        }

        try
        {
            while (true)
            {
                ulong address = 0;
                uint data = 0;
                lock (_lock)
                {
                    int vector = TakePending();
                    if (vector < 0)
                    {
                        if (!_sendAgain)
                        {
                            _sending = false;
                            return;
                        }

                        _sendAgain = false;
                        continue;
                    }

                    (address, data) = Message(vector);
                }

                _function.SendMessage(address, data);
            }
        }
        catch
        {
            lock (_lock)
                _sending = false;
            throw;
        }
    }

    private int TakePending()
    {
        if (!_enabled || _functionMask)
            return -1;
        for (int word = 0; word < _pending.Length; word++)
        {
            for (ulong bits = _pending[word]; bits != 0; bits &= bits - 1)
            {
                int vector = (word * 64) + System.Numerics.BitOperations.TrailingZeroCount(bits);
                if (Blocked(vector))
                    continue;
                _pending[word] &= ~(1UL << (vector % 64));
                return vector;
            }
        }

        return -1;
    }

    private void Check(int vector)
    {
        if ((uint)vector >= (uint)Vectors)
            throw new ArgumentOutOfRangeException(nameof(vector), vector, $"{_function.Name} has MSI-X vectors 0 to {Vectors - 1}");
    }

    private sealed class Table(MsixTable msix) : IMmioHandler
    {
        public ulong Read(ulong offset, int size, in TransactionAttributes attributes)
        {
            int word = (int)(offset / 4);
            lock (msix._lock)
                return size == 8 ? msix._entries[word] | ((ulong)msix._entries[word + 1] << 32) : msix._entries[word];
        }

        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
        {
            int word = (int)(offset / 4);
            msix.WriteEntry(word, (uint)value);
            if (size == 8)
                msix.WriteEntry(word + 1, (uint)(value >> 32));
        }
    }

    private sealed class PendingBits(MsixTable msix) : IMmioHandler
    {
        public ulong Read(ulong offset, int size, in TransactionAttributes attributes)
        {
            lock (msix._lock)
            {
                ulong word = msix._pending[(int)(offset / 8)];
                return size == 8 ? word : (uint)(word >> (int)(offset % 8 * 8));
            }
        }

        // 6.8.2: read-only; writes have no effect.
        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes) { }
    }
}
