using System.Buffers.Binary;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Devices;

public sealed partial class NvmeController
{
    /// <inheritdoc/>
    public Errno ReadRegion(int region, ulong offset, Span<byte> destination)
    {
        switch (region)
        {
            case PciRegion.Config when InBounds(offset, destination.Length, PciIdentity.ConfigurationSize):
                _pci.Read((int)offset, destination, _core.PinAsserted);
                return Errno.None;
            case PciRegion.Bar0 when InBounds(offset, destination.Length, PciIdentity.Bar0Size):
                ReadBar((int)offset, destination);
                return Errno.None;
            default:
                return Errno.EINVAL;
        }
    }

    /// <inheritdoc/>
    public Errno WriteRegion(int region, ulong offset, ReadOnlySpan<byte> data)
    {
        switch (region)
        {
            case PciRegion.Config when InBounds(offset, data.Length, PciIdentity.ConfigurationSize):
                PciEffect effect = _pci.Write((int)offset, data);
                if ((effect & PciEffect.Interrupts) != 0)
                    ApplyInterruptControl();
                if ((effect & PciEffect.FunctionReset) != 0)
                    ResetFunction();
                return Errno.None;
            case PciRegion.Bar0 when InBounds(offset, data.Length, PciIdentity.Bar0Size):
                return WriteBar((int)offset, data);
            default:
                return Errno.EINVAL;
        }
    }

    private static bool InBounds(ulong offset, int length, int size) => offset <= (ulong)size && (ulong)length <= (ulong)size - offset;

    /// <summary>Reads of any size and alignment; doorbells, pending bits and reserved registers read 0.</summary>
    private void ReadBar(int offset, Span<byte> destination)
    {
        destination.Clear();
        if (offset < NvmeRegister.End)
        {
            Span<byte> registers = stackalloc byte[NvmeRegister.End];
            registers.Clear();
            BinaryPrimitives.WriteUInt64LittleEndian(registers[NvmeRegister.Capabilities..], ControllerRegisters.Capabilities(_core.Limits.QueueEntries));
            BinaryPrimitives.WriteUInt32LittleEndian(registers[NvmeRegister.Version..], NvmeRegister.Version14);
            BinaryPrimitives.WriteUInt32LittleEndian(registers[NvmeRegister.InterruptMaskSet..], _core.InterruptMask);
            BinaryPrimitives.WriteUInt32LittleEndian(registers[NvmeRegister.InterruptMaskClear..], _core.InterruptMask);
            BinaryPrimitives.WriteUInt32LittleEndian(registers[NvmeRegister.Configuration..], _core.Configuration.Value);
            BinaryPrimitives.WriteUInt32LittleEndian(
                registers[NvmeRegister.Status..], ControllerRegisters.Status(_core.Ready, _core.Fatal, _core.Shutdown));
            BinaryPrimitives.WriteUInt32LittleEndian(registers[NvmeRegister.AdminQueueAttributes..], _core.AdminQueueAttributes);
            BinaryPrimitives.WriteUInt64LittleEndian(registers[NvmeRegister.AdminSubmissionBase..], _core.AdminSubmissionBase);
            BinaryPrimitives.WriteUInt64LittleEndian(registers[NvmeRegister.AdminCompletionBase..], _core.AdminCompletionBase);
            registers[offset..Math.Min(NvmeRegister.End, offset + destination.Length)].CopyTo(destination);
        }
        int from = Math.Max(offset, PciIdentity.MsixTableOffset);
        int to = Math.Min(offset + destination.Length, PciIdentity.MsixTableOffset + _msixTable.Length);
        if (from < to)
            _msixTable.AsSpan(from - PciIdentity.MsixTableOffset, to - from).CopyTo(destination[(from - offset)..]);
    }

    /// <summary>Writes of whole dwords; others have no meaning in any register here (NVM Express Base 1.4, 3.1) and are dropped.</summary>
    private Errno WriteBar(int offset, ReadOnlySpan<byte> data)
    {
        if (((offset | data.Length) & 3) != 0)
            return Errno.None;
        for (; !data.IsEmpty; data = data[4..], offset += 4)
        {
            uint value = BinaryPrimitives.ReadUInt32LittleEndian(data);
            if (offset < NvmeRegister.Doorbells)
            {
                Errno errno = WriteRegister(offset, value);
                if (errno != Errno.None)
                    return errno;
            }
            else if (offset < PciIdentity.MsixTableOffset)
            {
                _core.Ring((uint)(offset - NvmeRegister.Doorbells) / 4, value);
            }
            else if (offset - PciIdentity.MsixTableOffset < _msixTable.Length)
            {
                data[..4].CopyTo(_msixTable.AsSpan(offset - PciIdentity.MsixTableOffset));
            }
        }
        return Errno.None;
    }

    private Errno WriteRegister(int offset, uint value)
    {
        // What the admin queues were made from may not change under them (3.1.8 to 3.1.10).
        bool enabled = _core.Configuration.Enabled;
        switch (offset)
        {
            case NvmeRegister.InterruptMaskSet:
                _core.InterruptMask |= value;
                _core.UpdatePin();
                break;
            case NvmeRegister.InterruptMaskClear:
                _core.InterruptMask &= ~value;
                _core.UpdatePin();
                break;
            case NvmeRegister.Configuration:
                return WriteConfiguration(new ControllerConfiguration(value & ControllerConfiguration.Mask));
            case NvmeRegister.AdminQueueAttributes when !enabled:
                _core.AdminQueueAttributes = value & 0x0FFF_0FFF;
                break;
            case NvmeRegister.AdminSubmissionBase when !enabled:
                _core.AdminSubmissionBase = (_core.AdminSubmissionBase & ~0xFFFF_FFFFUL) | (value & ~0xFFFu);
                break;
            case NvmeRegister.AdminSubmissionBase + 4 when !enabled:
                _core.AdminSubmissionBase = (uint)_core.AdminSubmissionBase | ((ulong)value << 32);
                break;
            case NvmeRegister.AdminCompletionBase when !enabled:
                _core.AdminCompletionBase = (_core.AdminCompletionBase & ~0xFFFF_FFFFUL) | (value & ~0xFFFu);
                break;
            case NvmeRegister.AdminCompletionBase + 4 when !enabled:
                _core.AdminCompletionBase = (uint)_core.AdminCompletionBase | ((ulong)value << 32);
                break;
        }
        return Errno.None;
    }

    private Errno WriteConfiguration(ControllerConfiguration next)
    {
        ControllerConfiguration old = _core.Configuration;
        Errno errno = Errno.None;
        if (next.Enabled && !old.Enabled)
        {
            _core.Configuration = next;
            errno = Enable();
        }
        else if (!next.Enabled && old.Enabled)
        {
            StopWorkers();
            _core.ResetController();
            _core.Configuration = next;
        }
        else
        {
            const uint Fixed = ControllerConfiguration.FixedWhileEnabled;
            _core.Configuration = old.Enabled ? new((next.Value & ~Fixed) | (old.Value & Fixed)) : next;
        }
        if (next.ShutdownNotification != 0 && old.ShutdownNotification != next.ShutdownNotification)
            _core.BeginShutdown();
        return errno;
    }

    private Errno Enable()
    {
        if (!_core.TryEnable())
            return Errno.None; // CSTS.CFS is the guest's answer
        // While stopped, the transition to running takes the image.
        Errno errno = HoldsImage(_state) ? TakeImage() : Errno.None;
        GoOn();
        return errno;
    }
}
