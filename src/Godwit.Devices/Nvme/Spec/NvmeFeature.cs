namespace Godwit.Devices;

/// <summary>Feature identifiers (NVM Express Base 1.4, 5.21.1).</summary>
internal enum NvmeFeature : byte
{
    Arbitration = 0x01,
    PowerManagement = 0x02,
    TemperatureThreshold = 0x04,
    ErrorRecovery = 0x05,
    VolatileWriteCache = 0x06,
    NumberOfQueues = 0x07,
    InterruptCoalescing = 0x08,
    InterruptVectorConfiguration = 0x09,
    WriteAtomicity = 0x0A,
    AsyncEventConfiguration = 0x0B,
}

/// <summary>Log page identifiers (NVM Express Base 1.4, 5.14.1).</summary>
internal enum NvmeLogPage : byte
{
    ErrorInformation = 0x01,
    Health = 0x02,
    FirmwareSlot = 0x03,
    CommandsSupported = 0x05,
}

/// <summary>Asynchronous event types (NVM Express Base 1.4, 5.2).</summary>
internal enum AsyncEventType : byte
{
    Error = 0,
    Health = 1,
    Notice = 2,
}

/// <summary>Information of an error event (NVM Express Base 1.4, 5.2).</summary>
internal enum AsyncErrorInformation : byte
{
    InvalidDoorbellRegister = 0x00,
    InvalidDoorbellValue = 0x01,
}
