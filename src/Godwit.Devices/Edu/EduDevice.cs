using System.Buffers.Binary;
using Godwit.VfioUser;

namespace Godwit.Devices;

/// <summary>
/// QEMU's educational PCI device (docs/specs/edu of QEMU): identification, liveness check, factorials, interrupts by MSI or pin, and a DMA
/// engine between guest memory and a buffer of 4096 bytes. For tests of machines and of drivers.
/// </summary>
public sealed class EduDevice : PciDevice
{
    /// <summary>The address bits of QEMU's device: 28.</summary>
    public const ulong DefaultDmaMask = EduRegister.DefaultDmaMask;

    private readonly byte[] _buffer = new byte[EduRegister.BufferSize];
    private readonly ulong _dmaMask;
    private uint _liveness;
    private uint _factorial;
    private uint _status;
    private uint _interrupts;
    private Transfer _dma;

    /// <summary>Makes the device.</summary>
    /// <param name="dmaMask">Address bits that its DMA engine puts out; the others are cleared. The default is 28 bits.</param>
    public EduDevice(ulong dmaMask = DefaultDmaMask)
        : base(new PciDefinition
        {
            VendorId = EduRegister.Vendor,
            DeviceId = EduRegister.Device,
            ClassCode = EduRegister.ClassCode,
            Revision = EduRegister.Revision,
            Bars = [new PciBar(0, EduRegister.BarSize)],
            HasPin = true,
            MsiVectors = 1,
            MaxStateSize = 2 * EduRegister.BufferSize,
        }) => _dmaMask = dmaMask;

    /// <inheritdoc/>
    protected override void ReadBar(int bar, ulong offset, Span<byte> destination)
    {
        // An access of the wrong size, or where there is no register, reads all ones.
        destination.Fill(0xFF);
        if (!IsAccess(offset, destination.Length))
            return;
        ulong? value = (int)offset switch
        {
            EduRegister.Identification => EduRegister.IdentificationValue,
            EduRegister.Liveness => _liveness,
            EduRegister.Factorial => _factorial,
            EduRegister.Status => _status,
            EduRegister.InterruptStatus => _interrupts,
            EduRegister.DmaSource => _dma.Source,
            EduRegister.DmaDestination => _dma.Destination,
            EduRegister.DmaCount => _dma.Count,
            EduRegister.DmaCommand => _dma.Command,
            _ => null,
        };
        if (value is not { } known)
            return;
        Span<byte> bytes = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, known);
        bytes[..destination.Length].CopyTo(destination);
    }

    /// <inheritdoc/>
    protected override void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> data)
    {
        if (!IsAccess(offset, data.Length))
            return;
        Span<byte> bytes = stackalloc byte[sizeof(ulong)];
        bytes.Clear();
        data.CopyTo(bytes);
        ulong value = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        bool transferring = (_dma.Command & EduRegister.DmaStart) != 0;
        switch ((int)offset)
        {
            case EduRegister.Liveness:
                _liveness = ~(uint)value;
                break;
            case EduRegister.Factorial when (_status & EduRegister.Computing) == 0:
                _factorial = (uint)value;
                _status |= EduRegister.Computing;
                RequestWork();
                break;
            case EduRegister.Status:
                _status = (_status & EduRegister.Computing) | ((uint)value & EduRegister.InterruptAfterFactorial);
                break;
            case EduRegister.InterruptRaise:
                Raise((uint)value);
                break;
            case EduRegister.InterruptAcknowledge:
                _interrupts &= ~(uint)value;
                if (_interrupts == 0)
                    LowerPin();
                break;
            // What a transfer in progress was programmed with stays.
            case EduRegister.DmaSource when !transferring:
                _dma.Source = value;
                break;
            case EduRegister.DmaDestination when !transferring:
                _dma.Destination = value;
                break;
            case EduRegister.DmaCount when !transferring:
                _dma.Count = value;
                break;
            case EduRegister.DmaCommand when !transferring:
                _dma.Command = value & EduRegister.DmaCommandBits;
                if ((value & EduRegister.DmaStart) != 0)
                    RequestWork();
                break;
        }
    }

    /// <inheritdoc/>
    protected override void Work()
    {
        uint input;
        bool computing;
        Transfer transfer;
        lock (Gate)
        {
            computing = (_status & EduRegister.Computing) != 0;
            input = _factorial;
            transfer = _dma;
        }
        if (computing)
        {
            uint result = FactorialOf(input);
            lock (Gate)
            {
                _factorial = result;
                _status &= ~EduRegister.Computing;
                if ((_status & EduRegister.InterruptAfterFactorial) != 0)
                    Raise(EduRegister.FactorialDone);
            }
        }
        if ((transfer.Command & EduRegister.DmaStart) != 0)
        {
            string? failure = Copy(transfer);
            if (failure is not null)
                Log?.Invoke($"edu: DMA of 0x{transfer.Count:x} bytes from 0x{transfer.Source:x} to 0x{transfer.Destination:x}: {failure}");
            // The device has no way to say that a transfer failed.
            lock (Gate)
            {
                _dma.Command &= ~EduRegister.DmaStart;
                if ((transfer.Command & EduRegister.DmaInterrupt) != 0)
                    Raise(EduRegister.DmaDone);
            }
        }
    }

    /// <inheritdoc/>
    protected override void OnReset()
    {
        _liveness = 0;
        _factorial = 0;
        _status = 0;
        _interrupts = 0;
        _dma = default;
        _buffer.AsSpan().Clear();
    }

    /// <inheritdoc/>
    protected override void Save(DeviceStateWriter state)
    {
        state.UInt64(_dmaMask);
        state.UInt32(_liveness);
        state.UInt32(_factorial);
        state.UInt32(_status);
        state.UInt32(_interrupts);
        state.UInt64(_dma.Source);
        state.UInt64(_dma.Destination);
        state.UInt64(_dma.Count);
        state.UInt64(_dma.Command);
        state.Bytes(_buffer);
    }

    /// <inheritdoc/>
    protected override void Load(DeviceStateReader state)
    {
        ulong mask = state.UInt64();
        if (mask != _dmaMask)
            throw new DeviceStateException($"the other device has DMA mask 0x{mask:x}, this one 0x{_dmaMask:x}");
        _liveness = state.UInt32();
        _factorial = state.UInt32();
        _status = state.UInt32();
        if ((_status & ~(EduRegister.Computing | EduRegister.InterruptAfterFactorial)) != 0)
            throw new DeviceStateException($"status 0x{_status:x} has bits that do not exist");
        _interrupts = state.UInt32();
        _dma = new Transfer { Source = state.UInt64(), Destination = state.UInt64(), Count = state.UInt64(), Command = state.UInt64() };
        if ((_dma.Command & ~EduRegister.DmaCommandBits) != 0)
            throw new DeviceStateException($"DMA command 0x{_dma.Command:x} has bits that do not exist");
        state.Bytes(_buffer);
    }

    private static bool IsAccess(ulong offset, int size) =>
        size == 4 || (size == 8 && offset >= EduRegister.WideFrom);

    /// <summary>Modulo 2^32, in which 34! and all above are 0.</summary>
    private static uint FactorialOf(uint n)
    {
        if (n >= 34)
            return 0;
        uint result = 1;
        for (uint i = 2; i <= n; i++)
            result = unchecked(result * i);
        return result;
    }

    private void Raise(uint reasons)
    {
        _interrupts |= reasons;
        if (_interrupts != 0)
            RaiseInterrupt();
    }

    /// <summary>Null when done, else why not. The buffer belongs to the engine, so no lock is held.</summary>
    private string? Copy(Transfer transfer)
    {
        bool fromDevice = (transfer.Command & EduRegister.DmaFromDevice) != 0;
        ulong inside = (fromDevice ? transfer.Source : transfer.Destination) - EduRegister.BufferStart;
        if (inside > EduRegister.BufferSize || transfer.Count > EduRegister.BufferSize - inside)
            return "outside of the device's buffer";
        Span<byte> piece = _buffer.AsSpan((int)inside, (int)transfer.Count);
        var address = new DmaAddress((fromDevice ? transfer.Destination : transfer.Source) & _dmaMask);
        return piece.IsEmpty || (fromDevice ? WriteMemory(address, piece) : ReadMemory(address, piece)) ? null : $"{address} is not mapped for it";
    }

    /// <summary>What the DMA engine is programmed with.</summary>
    private struct Transfer
    {
        public ulong Source;
        public ulong Destination;
        public ulong Count;
        public ulong Command;
    }
}
