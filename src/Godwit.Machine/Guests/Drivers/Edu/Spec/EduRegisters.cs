namespace Godwit.Machine.Guests.Drivers.Spec;

/// <summary>The educational device as a driver needs it (QEMU documentation, "EDU device", docs/specs/edu).</summary>
internal static class EduRegisters
{
    public const ushort Vendor = 0x1234;
    public const ushort Device = 0x11E8;

    // In BAR 0 ("MMIO area spec"): 4 bytes each, those of the DMA engine 8.
    public const ulong Identification = 0x00;
    public const ulong Liveness = 0x04;
    public const ulong Factorial = 0x08;
    public const ulong Status = 0x20;
    public const ulong InterruptStatus = 0x24;
    public const ulong InterruptAcknowledge = 0x64;
    public const ulong DmaSource = 0x80;
    public const ulong DmaDestination = 0x88;
    public const ulong DmaCount = 0x90;
    public const ulong DmaCommand = 0x98;

    /// <summary>What identifies it whatever its version, which stands in the upper bytes.</summary>
    public const uint IdentificationMark = 0xED;
    public const uint IdentificationMask = 0xFFFF;

    public const uint InterruptWhenDone = 0x80;
    public const uint FactorialDone = 0x001;
    public const uint DmaDone = 0x100;

    public const uint DmaStart = 0x01;
    public const uint DmaToMemory = 0x02;
    public const uint DmaInterrupt = 0x04;

    /// <summary>The device's own buffer of one page, at an address that only its DMA engine knows ("DMA controller").</summary>
    public const ulong Buffer = 0x40000;

    /// <summary>Width of the addresses that the engine puts out.</summary>
    public const int AddressBits = 28;
}
