namespace Godwit.Devices;

/// <summary>Registers and bits of the educational device (QEMU documentation, "EDU device", docs/specs/edu).</summary>
internal static class EduRegister
{
    /// <summary>Identity in configuration space ("Device Specification").</summary>
    public const ushort Vendor = 0x1234;
    public const ushort Device = 0x11E8;
    public const byte Revision = 0x10;

    /// <summary>Class 00FF: none of the defined ones.</summary>
    public const uint ClassCode = 0x00FF00;

    /// <summary>Bytes of BAR 0.</summary>
    public const ulong BarSize = 1 << 20;

    // Offsets in BAR 0 ("MMIO area spec"). Below 0x80 accesses have 4 bytes, from there on 4 or 8.
    public const int Identification = 0x00;
    public const int Liveness = 0x04;
    public const int Factorial = 0x08;
    public const int Status = 0x20;
    public const int InterruptStatus = 0x24;
    public const int InterruptRaise = 0x60;
    public const int InterruptAcknowledge = 0x64;
    public const int DmaSource = 0x80;
    public const int DmaDestination = 0x88;
    public const int DmaCount = 0x90;
    public const int DmaCommand = 0x98;
    public const int WideFrom = DmaSource;

    /// <summary>Version 1.0 in the upper bytes, "edu" in its way below.</summary>
    public const uint IdentificationValue = 0x0100_00ED;

    // Status register.
    public const uint Computing = 0x01;
    public const uint InterruptAfterFactorial = 0x80;

    // Interrupt status.
    public const uint FactorialDone = 0x001;
    public const uint DmaDone = 0x100;

    // DMA command.
    public const ulong DmaStart = 0x01;
    public const ulong DmaFromDevice = 0x02;
    public const ulong DmaInterrupt = 0x04;
    public const ulong DmaCommandBits = DmaStart | DmaFromDevice | DmaInterrupt;

    /// <summary>The device's own buffer, at addresses that only its DMA engine knows ("DMA controller").</summary>
    public const ulong BufferStart = 0x40000;
    public const int BufferSize = 4096;

    /// <summary>Addresses that the engine can put out, unless asked for otherwise: 28 bits.</summary>
    public const ulong DefaultDmaMask = 0x0FFF_FFFF;
}
