using System.Buffers;
using System.Buffers.Binary;
using Godwit.Pci.Spec;

namespace Godwit.Pci;

public abstract partial class PciFunction
{
    private const ushort StateVersion = 1;
    private const int StateHeaderBytes = 8;

    /// <summary>
    /// Saves configuration space (and MSI-X) for the migration stream: version and MSI-X length (2 + 2 + 4 bytes), 4096 bytes of
    /// configuration, MSI-X table and pending bits.
    /// </summary>
    public virtual void SaveState(IBufferWriter<byte> writer)
    {
        ArgumentNullException.ThrowIfNull(writer);
        int msixBytes = Msix?.StateBytes ?? 0;
        int length = StateHeaderBytes + ConfigOffset.Size + msixBytes;
        Span<byte> state = writer.GetSpan(length)[..length];
        BinaryPrimitives.WriteUInt16LittleEndian(state, StateVersion);
        BinaryPrimitives.WriteUInt16LittleEndian(state[2..], 0);
        BinaryPrimitives.WriteInt32LittleEndian(state[4..], msixBytes);
        lock (_configWrite)
        {
            Config.Bytes.CopyTo(state[StateHeaderBytes..]);
            Msix?.Save(state[(StateHeaderBytes + ConfigOffset.Size)..]);
        }

        writer.Advance(length);
    }

    /// <summary>
    /// Loads it: bits that are neither writable nor cleared by writing 1 must be equal, then BARs, command and MSI-X take effect. Nothing
    /// has changed when it throws. Bridges are loaded before everything else, the vIOMMU next.
    /// </summary>
    /// <exception cref="PciStateException">The state is of another version, length or function.</exception>
    public virtual void LoadState(ReadOnlySpan<byte> state)
    {
        int used = LoadBaseState(state);
        if (used != state.Length)
            throw new PciStateException(Name, $"{state.Length} bytes where {used} were expected");
    }

    /// <summary>Bytes at the front of <paramref name="state"/> that <see cref="SaveState"/> of this class wrote, for derived classes that append their own.</summary>
    /// <exception cref="PciStateException">They are not that.</exception>
    protected int MeasureBaseState(ReadOnlySpan<byte> state)
    {
        if (state.Length < StateHeaderBytes)
            throw new PciStateException(Name, $"{state.Length} bytes; the header has {StateHeaderBytes}");
        ushort version = BinaryPrimitives.ReadUInt16LittleEndian(state);
        if (version != StateVersion)
            throw new PciStateException(Name, $"version {version}; this program knows {StateVersion}");
        ushort flags = BinaryPrimitives.ReadUInt16LittleEndian(state[2..]);
        if (flags != 0)
            throw new PciStateException(Name, $"unknown flags 0x{flags:x}");
        int msixBytes = BinaryPrimitives.ReadInt32LittleEndian(state[4..]);
        int ownMsixBytes = Msix?.StateBytes ?? 0;
        if (msixBytes != ownMsixBytes)
            throw new PciStateException(Name, $"{msixBytes} bytes of MSI-X state; this function has {ownMsixBytes}");
        int length = StateHeaderBytes + ConfigOffset.Size + msixBytes;
        if (state.Length < length)
            throw new PciStateException(Name, $"{state.Length} bytes where at least {length} were expected");
        return length;
    }

    /// <summary>Loads what <see cref="SaveState"/> of this class wrote at the front of <paramref name="state"/>; returns its bytes.</summary>
    /// <exception cref="PciStateException">As <see cref="LoadState"/>.</exception>
    protected int LoadBaseState(ReadOnlySpan<byte> state)
    {
        int length = MeasureBaseState(state);
        ReadOnlySpan<byte> incoming = state.Slice(StateHeaderBytes, ConfigOffset.Size);
        lock (_configWrite)
        {
            ReadOnlySpan<byte> own = Config.Bytes;
            for (int offset = 0; offset < ConfigOffset.Size; offset++)
            {
                byte compared = (byte)~(Config.Writable[offset] | Config.ClearOnOne[offset]);
                if (((incoming[offset] ^ own[offset]) & compared) != 0)
                    throw new PciStateException(Name, offset, incoming[offset], own[offset], compared);
            }

            Config.Load(incoming);
            ApplyDecoding();
        }

        DrivePin();
        Msix?.Load(state[(StateHeaderBytes + ConfigOffset.Size)..length]);
        Msi?.ControlWritten();
        return length;
    }
}
